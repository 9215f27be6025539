"""docs/extending.md: every file of it is executed by a test of this folder."""

import ast
import pathlib


def test_documentation_files_are_all_executed_by_tests(documented):
  assert documented
  tests = "\n".join(
    path.read_text(encoding="utf-8")
    for path in pathlib.Path(__file__).parent.glob("test_*.py")
  )
  for path, source in documented.items():
    assert ast.get_docstring(ast.parse(source)), path
    assert f'"{path}"' in tests, path
