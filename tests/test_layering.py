"""The map of the house is kept: who may import whom, read from the source itself.

types, errors <- {diffusion, models, conditioning, data, parallel} <- interop
  <- preparation
  <- training <- evaluation <- mains
"""

import ast
from collections.abc import Iterator
import pathlib

import pytest

PACKAGE = "cxr_diffusion_jax"

GROUND = ("types", "errors", "pictures")
FIRST = ("diffusion", "models", "conditioning", "data", "parallel")
UPPER = ("interop", "preparation", "training", "evaluation")
MAINS = (
  "command",
  "compare",
  "cost",
  "evaluate",
  "evaluation_flags",
  "main",
  "prepare",
  "report",
  "run_writer",
  "sample",
  "sample_flags",
  "score_readers",
  "train_autoencoder",
)

# Libraries that one room alone may know, and where a name ends in "/", a whole folder.
ROOMS = {
  "clu": ("run_writer.py",),
  "grain": ("data/pipeline.py",),
  "matplotlib": ("evaluation/comparison_page/", "evaluation/curves.py"),
  "ml_collections": (
    "cost.py",
    "main.py",
    "prepare.py",
    "train_autoencoder.py",
    "training/",
  ),
  "optax": ("evaluation/probe_fit.py", "preparation/", "training/"),
  "orbax": ("training/checkpoint.py",),
  "pydicom": ("data/dicom.py",),
  "tensorboard": ("evaluation/curves.py",),
  "tensorflow": ("conditioning/elixr_saved_model.py",),
  "tensorflow_datasets": ("data/records/format.py",),
  "transformers": ("conditioning/clip_",),
  "umap": ("evaluation/comparison_page/projection.py",),
}
NOWHERE = ("pickle", "cloudpickle", "dill", "joblib", "torch", "utils")

# Where functions are compiled; all others can be called as they are.
COMPILED = (
  "conditioning/clip_model.py",
  "evaluation/attribution.py",
  "evaluation/features/extractor.py",
  "evaluation/probe_fit.py",
  "preparation/autoencoders.py",
  "preparation/standin.py",
  "training/codec_programs.py",
  "training/cost.py",
  "training/generate.py",
  "training/autoencoder/programs.py",
  "training/programs.py",
)


@pytest.fixture(scope="module")
def sources(repository: pathlib.Path) -> dict[str, ast.Module]:
  """Path below the package -> its syntax tree."""
  package = repository / PACKAGE
  return {
    path.relative_to(package).as_posix(): ast.parse(path.read_text(encoding="utf-8"))
    for path in sorted(package.rglob("*.py"))
  }


def _imports(tree: ast.AST) -> Iterator[str]:
  """Full names of all that is imported, wherever the statement stands."""
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, "relative import"
      yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _rooms(tree: ast.AST) -> set[str]:
  """Rooms of this package that are imported from."""
  return {
    name.split(".")[1]
    for name in _imports(tree)
    if name.startswith(f"{PACKAGE}.") or name == PACKAGE
  }


def _allowed(path: str) -> tuple[str, ...]:
  room = path.split("/")[0].removesuffix(".py")
  if room in GROUND or room == "__init__":
    return ()
  if room in FIRST:
    return (*GROUND, room)
  if room in UPPER:
    return (*GROUND, *FIRST, *UPPER[: UPPER.index(room) + 1])
  assert room in MAINS, f"{path} is on no layer"
  return (
    *GROUND,
    *FIRST,
    *UPPER,
    "command",
    "evaluation_flags",
    "run_writer",
    "sample_flags",
  )


def test_nothing_is_imported_from_above_or_from_beside(sources):
  wrong = {
    f"{path} imports {room}"
    for path, tree in sources.items()
    for room in _rooms(tree) - set(_allowed(path))
  }
  assert not wrong
  assert len(sources) > 50


def test_the_ground_knows_no_file_of_this_package(sources):
  assert _rooms(sources["types.py"]) | _rooms(sources["errors.py"]) == set()


@pytest.mark.parametrize("library", ROOMS)
def test_a_library_is_known_where_it_is_needed_and_nowhere_else(library, sources):
  users = {
    path
    for path, tree in sources.items()
    if any(name.split(".")[0] == library for name in _imports(tree))
  }
  rooms = ROOMS[library]
  assert {path for path in users if not path.startswith(rooms)} == set()
  assert all(any(path.startswith(room) for path in users) for room in rooms)


@pytest.mark.parametrize("library", NOWHERE)
def test_some_things_are_nowhere(library, sources):
  for path, tree in sources.items():
    for name in _imports(tree):
      assert library not in name.split("."), path


def test_no_file_that_is_read_may_run_code(sources):
  for path, tree in sources.items():
    for node in ast.walk(tree):
      if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
        assert ast.unparse(node.value) == "False", path


@pytest.mark.parametrize(
  ("library", "path"),
  [
    ("tensorflow_datasets", "data/records/format.py"),
    ("transformers", "conditioning/clip_model.py"),
    ("clu", "run_writer.py"),
    ("tensorflow", "conditioning/elixr_saved_model.py"),
    ("pydicom", "data/dicom.py"),
  ],
)
def test_what_takes_seconds_to_import_is_imported_when_it_is_needed(
  library, path, sources
):
  for node in sources[path].body:
    if isinstance(node, ast.Import | ast.ImportFrom):
      assert not any(name.split(".")[0] == library for name in _imports(node))


def test_compiling_happens_in_few_places(sources):
  compiling = {
    path
    for path, tree in sources.items()
    for node in ast.walk(tree)
    if isinstance(node, ast.Attribute) and node.attr in ("jit", "pjit", "pmap")
  }
  assert compiling == set(COMPILED)


def test_the_mains_are_short(repository):
  for name in set(MAINS) - {"command"}:
    lines = (repository / PACKAGE / f"{name}.py").read_text().splitlines()
    # Half of `sample` are its flags.
    assert len(lines) <= (140 if name == "sample" else 120), name


def test_files_are_short_and_say_what_they_are(sources, repository):
  for path, tree in sources.items():
    assert ast.get_docstring(tree), path
    lines = (repository / PACKAGE / path).read_text().splitlines()
    assert len(lines) <= 300, path
