"""Imports between packages follow the layers of the design, read from the source.

errors, progress, staging <- disk <- types, artifacts, naming
  <- checked_files <- checksums <- pictures
  <- {diffusion, models, conditioning, data, parallel} <- interop <- encoders <- run
  <- {training, sampling} <- evaluation <- {report, synthesis} <- extras <- planning
  <- cli <- mains
"""

import ast
from collections.abc import Iterator
import pathlib

import pytest

PACKAGE = "cxr_diffusion_jax"

LAYERS = (
  ("errors", "progress", "staging"),
  ("disk",),
  ("types", "artifacts", "naming"),
  ("checked_files",),
  ("checksums",),
  ("pictures",),
  ("diffusion", "models", "conditioning", "data", "parallel"),
  ("interop",),
  ("encoders",),
  ("run",),
  ("training", "sampling"),
  ("evaluation",),
  ("report", "synthesis"),
  ("extras",),
  ("planning",),
  ("cli",),
  ("api",),
)
MAINS = (
  "__main__",
  "compare",
  "cost",
  "evaluate",
  "generate",
  "main",
  "plan",
  "prepare",
  "report/__main__",
  "sample",
  "score_readers",
  "train_autoencoder",
)

# Libraries that one room alone may know, and where a name ends in "/", a whole folder.
ROOMS = {
  "clu": ("cli/metrics_logger.py",),
  "grain": ("data/pipeline.py", "data/read_ahead.py"),
  "matplotlib": ("report/",),
  "ml_collections": (
    "cli/",
    "extras/",
    "run/",
  ),
  "onnxruntime": ("encoders/extractors/onnx_network.py",),
  "optax": (
    "encoders/fitting.py",
    "encoders/fitting_steps.py",
    "encoders/standin/",
    "encoders/probes/",
    "extras/autoencoder/",
    "training/",
  ),
  "orbax": ("run/checkpoints.py",),
  "pydicom": ("data/dicom.py",),
  "tempfile": ("staging.py", "extras/phantom/tree.py"),
  "tensorboard": ("run/loss_curves.py",),
  "tensorflow": ("encoders/elixr/saved_model.py",),
  "tensorflow_datasets": ("data/records/format.py",),
  "transformers": ("encoders/bert/", "encoders/clip/"),
  "umap": ("report/comparison/projection.py",),
}
NOWHERE = ("pickle", "cloudpickle", "dill", "joblib", "torch", "utils")

# Where functions are compiled; all others can be called as they are.
COMPILED = (
  "encoders/bert/model.py",
  "encoders/clip/model.py",
  "encoders/fitting.py",
  "encoders/fitting_steps.py",
  "encoders/latents/autoencoders.py",
  "encoders/extractors/extractor.py",
  "encoders/probes/attribution.py",
  "encoders/probes/probe_fit.py",
  "extras/autoencoder/report.py",
  "extras/cost.py",
  "sampling/decoding.py",
  "sampling/generate.py",
  "training/compiled.py",
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


def _layer(room: str) -> int:
  for number, rooms in enumerate(LAYERS):
    if room in rooms:
      return number
  return len(LAYERS)


def _forbidden(path: str, tree: ast.AST) -> set[str]:
  """Rooms that a file imports and may not: of its own layer or above it."""
  room = path.split("/")[0].removesuffix(".py")
  if path.removesuffix(".py") in MAINS:
    return {other for other in _rooms(tree) if _layer(other) == len(LAYERS)}
  assert room == "__init__" or _layer(room) < len(LAYERS), f"{path} is on no layer"
  return {r for r in _rooms(tree) if r != room and _layer(r) >= _layer(room)}


def test_layering_imports_point_to_lower_layers(sources):
  wrong = {
    f"{path} imports {room}"
    for path, tree in sources.items()
    for room in _forbidden(path, tree)
  }
  assert wrong == set()
  assert len(sources) > 50


@pytest.mark.parametrize("library", ROOMS)
def test_layering_libraries_are_imported_only_in_their_rooms(library, sources):
  users = {
    path
    for path, tree in sources.items()
    if any(name.split(".")[0] == library for name in _imports(tree))
  }
  rooms = ROOMS[library]
  assert {path for path in users if not path.startswith(rooms)} == set()
  assert all(any(path.startswith(room) for path in users) for room in rooms)


@pytest.mark.parametrize("library", NOWHERE)
def test_layering_forbids_some_libraries(library, sources):
  for path, tree in sources.items():
    for name in _imports(tree):
      assert library not in name.split("."), path


def test_layering_forbids_pickled_arrays(sources):
  for path, tree in sources.items():
    for node in ast.walk(tree):
      if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
        assert ast.unparse(node.value) == "False", path


@pytest.mark.parametrize(
  ("library", "path"),
  [
    ("tensorflow_datasets", "data/records/format.py"),
    ("transformers", "encoders/clip/model.py"),
    ("clu", "cli/metrics_logger.py"),
    ("tensorflow", "encoders/elixr/saved_model.py"),
    ("pydicom", "data/dicom.py"),
  ],
)
def test_layering_imports_slow_libraries_lazily(library, path, sources):
  for node in sources[path].body:
    if isinstance(node, ast.Import | ast.ImportFrom):
      assert not any(name.split(".")[0] == library for name in _imports(node))


def test_layering_compiles_in_few_places(sources):
  compiling = {
    path
    for path, tree in sources.items()
    for node in ast.walk(tree)
    if isinstance(node, ast.Attribute) and node.attr in ("jit", "pjit", "pmap")
  }
  assert compiling == set(COMPILED)


def test_layering_mains_are_short(repository):
  for name in MAINS:
    lines = (repository / PACKAGE / f"{name}.py").read_text().splitlines()
    # Half of `sample` are its flags.
    assert len(lines) <= (170 if name == "sample" else 130), name


def test_layering_files_are_short_and_documented(sources, repository):
  for path, tree in sources.items():
    assert ast.get_docstring(tree), path
    lines = (repository / PACKAGE / path).read_text().splitlines()
    assert len(lines) <= 300, path
