"""The README and docs/: short, in plain words, and about things that exist."""

import importlib
import pathlib
import re

import pytest

from configs import elixr_c
from cxr_diffusion_jax.evaluation import metric

DOCS = ("README.md", "launch/README.md", "docs/*.md", "docs/results/*.md")
CONFIGS = (
  *("bert_text", "clip_text", "clip_vision", "elixr_b", "elixr_bc", "elixr_c"),
  "findings",
  *("autoencoder", "phantom", "sd15_finetune"),
)

# Flags of other programs and of scripts, and those that absl defines for `--config`.
FOREIGN = {
  *("root", "image_size", "folder", "compression", "figures", "out", "config"),
  "dry_run",
  # launch/tpu_vm.sh, xpk, sbatch and sky.
  *("name", "zone", "type", "spot", "setup", "cluster", "workload", "command"),
  *("nodes", "env"),
  # xprof.
  *("logdir", "port"),
}
FORBIDDEN = (
  *("told", "anew", "at hand", "stands in", "hangs on", "goes on with"),
  *("had its say", "of others", "mended", "heard"),
)


@pytest.fixture(scope="module")
def pages(repository) -> dict[str, str]:
  """Path -> text of every page."""
  paths = sorted(path for pattern in DOCS for path in repository.glob(pattern))
  return {
    path.relative_to(repository).as_posix(): path.read_text(encoding="utf-8")
    for path in paths
  }


def test_docs_readme_is_short(pages):
  assert len(pages["README.md"].encode()) <= 10_000
  assert len(pages) >= 15


def test_docs_glossary_has_at_most_30_terms_in_order(pages):
  terms = re.findall(r"^\| (.*?) \|", pages["docs/glossary.md"], re.MULTILINE)[1:]
  assert 0 < len(terms) <= 30
  assert terms == sorted(terms)


def test_docs_links_lead_to_files_and_headings(pages, repository):
  for name, text in pages.items():
    for target in re.findall(r"\]\(([^)]+)\)", text):
      if target.startswith("https://"):
        continue
      path, _, heading = target.partition("#")
      file = (repository / name).parent / path if path else repository / name
      assert file.exists(), f"{name}: {target}"
      if heading:
        headings = re.findall(r"^#+ (.*)", file.read_text("utf-8"), re.MULTILINE)
        assert heading in {each.lower().replace(" ", "-") for each in headings}, target


def test_docs_pages_are_linked_from_the_index(pages):
  index = pages["docs/index.md"]
  for name in pages:
    if name.startswith("docs/") and name != "docs/index.md":
      assert f"({name.removeprefix('docs/')})" in index, name


@pytest.mark.parametrize("phrase", FORBIDDEN)
def test_docs_pages_use_plain_words(phrase, pages):
  for name, text in pages.items():
    assert not re.search(rf"\b{phrase}\b", text), name


def test_docs_flags_and_files_exist(pages, repository):
  folders = ("cxr_diffusion_jax", "tests/stress", "tests/benchmarks")
  sources = "\n".join(
    path.read_text(encoding="utf-8")
    for folder in folders
    for path in (repository / folder).rglob("*.py")
  )
  for name, text in pages.items():
    for flag in set(re.findall(r"--([a-z][a-z_]*)\b(?![.-])", text)) - FOREIGN:
      # absl's flags, and argparse's.
      assert re.search(f'"(--)?{flag}"', sources), f"{name}: --{flag}"
    for module in set(re.findall(r"python -m (cxr_diffusion_jax\.\w+)", text)):
      assert importlib.util.find_spec(module), f"{name}: {module}"
    pattern = r"\b((?:configs|launch|tests|docs|cxr_diffusion_jax)/[\w/]+\.\w+)"
    # The files that docs/extending.md adds.
    added = set(re.findall(r"^# ([\w/]+\.py)$", text, re.MULTILINE))
    for path in set(re.findall(pattern, text)) - added:
      if not re.search("PATH|NAME", path):
        assert (repository / path).exists(), f"{name}: {path}"


def test_docs_config_keys_exist(pages, repository, monkeypatch):
  monkeypatch.syspath_prepend(str(repository))
  modules = [importlib.import_module(f"configs.{c}") for c in CONFIGS]
  # A network of each kind has keys of its own.
  configs = [module.get_config() for module in modules]
  configs += [elixr_c.get_config(size) for size in ("dit_s", "edm2_small")]
  importance = "diffusion.time_sampler.name"
  for name, text in pages.items():
    for key in set(re.findall(r"\bconfig\.([a-z0-9_]+(?:\.[a-z0-9_]+)+)", text)):
      assert key == importance or any(_has(config, key) for config in configs), (
        f"{name}: config.{key}"
      )


def _has(config, key: str) -> bool:
  for part in key.split("."):
    if not hasattr(config, "keys") or part not in config:
      return False
    config = config[part]
  return True


def test_docs_package_data_of_report_is_complete(repository: pathlib.Path):
  folder = repository / "cxr_diffusion_jax" / "report" / "templates"
  assert {path.suffix for path in folder.iterdir()} == {".html", ".css", ".js"}


def _expanded(pattern: str) -> list[str]:
  """The names that braces stand for, as in a shell."""
  inner = re.search(r"\{([^{}]*)\}", pattern)
  if inner is None:
    return [pattern]
  before, after = pattern[: inner.start()], pattern[inner.end() :]
  return [
    name for part in inner[1].split(",") for name in _expanded(before + part + after)
  ]


def test_docs_evaluation_lists_every_figure_and_its_minimum(pages):
  section = pages["docs/evaluation.md"].split("## Every figure")[1].split("\n## ")[0]
  listed = {}
  for line in section.splitlines():
    if line.startswith("| `"):
      names, _, _, minimum, _ = re.split(r" \| ?", line.removeprefix("| "), maxsplit=4)
      for pattern in re.findall(r"`([^`]+)`", names):
        for name in {*_expanded(pattern)}:
          assert name not in listed, name
          listed[name] = int(minimum.split()[0].strip(","))
  declared = {name: record.minimum_n for name, record in metric.find_all().items()}
  assert listed == declared
