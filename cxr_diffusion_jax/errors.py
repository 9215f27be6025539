"""The one exception that means: the user's input is wrong, and here is the fix.

Library code raises `InputError`; the mains print its single line to stderr and exit
with code 2, without a traceback. Any other exception is a defect of this project.
"""


class InputError(Exception):
  """Input that cannot be used, told in one line: got, expected, how to fix.

  Args:
    got: what was found, with the name of the file, key or value.
    expected: what would have been right; left out when `got` says it.
    fix: what the user can do about it.
  """

  def __init__(self, got: str, expected: str = "", fix: str = ""):
    parts = [got]
    if expected:
      parts.append(f"expected {expected}")
    if fix:
      parts.append(f"fix: {fix}")
    super().__init__(" ".join("; ".join(parts).split()))
