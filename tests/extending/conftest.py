"""The files of docs/extending.md, put where the package looks for its modules."""

from collections.abc import Callable, Iterator
import importlib
import pathlib
import re
import sys

import pytest


@pytest.fixture(scope="session")
def documented(repository: pathlib.Path) -> dict[str, str]:
  """Path below the package -> the file of that name in docs/extending.md."""
  text = (repository / "docs" / "extending.md").read_text(encoding="utf-8")
  blocks = re.findall(r"```python\n# ([\w/.]+)\n(.*?)```", text, re.DOTALL)
  assert len(dict(blocks)) == len(blocks)
  return dict(blocks)


@pytest.fixture
def install(
  documented, tmp_path: pathlib.Path
) -> Iterator[Callable[[str], pathlib.Path]]:
  """Writes a documented file to a folder that its package then searches too.

  `install("conditioning/elixr_means.py")` returns the path of the file. The package
  finds it as if it were one of its own files.
  """
  added = []

  def install(path: str) -> pathlib.Path:
    file = tmp_path / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(documented[path], encoding="utf-8")
    parts = file.relative_to(tmp_path).with_suffix("").parts
    if parts[0] != "configs":
      package = importlib.import_module(".".join(("cxr_diffusion_jax", *parts[:-1])))
      package.__path__.append(str(file.parent))
      added.append((package, file))
    importlib.invalidate_caches()
    return file

  yield install
  for package, file in added:
    package.__path__.remove(str(file.parent))
    sys.modules.pop(f"{package.__name__}.{file.stem}", None)
