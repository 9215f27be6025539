"""The files of docs/extending.md, put where the package looks for its modules."""

from collections.abc import Callable
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
  files = dict(blocks)
  assert len(files) == len(blocks)
  return files


@pytest.fixture
def install(
  documented, tmp_path: pathlib.Path, monkeypatch
) -> Callable[[str], pathlib.Path]:
  """Writes a documented file to a folder that its package then searches too."""
  names = []

  def write(path: str) -> pathlib.Path:
    folder, _, name = path.rpartition("/")
    root = "" if folder == "configs" else "cxr_diffusion_jax."
    package = importlib.import_module(f"{root}{folder.replace('/', '.')}")
    file = tmp_path / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(documented[path], encoding="utf-8")
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(file.parent)])
    names.append(f"{package.__name__}.{name.removesuffix('.py')}")
    return file

  yield write
  for name in names:
    sys.modules.pop(name, None)
