"""Small text files that are either there whole or not at all.

write NAME.part -> flush to disk -> rename to NAME
"""

import os
import pathlib


def write_text(path: pathlib.Path, text: str) -> None:
  """Writes `text` in UTF-8, line ends as they are; replaces what was there.

  Raises:
    OSError: the folder is missing, read-only or full; the old file is untouched.
  """
  part = path.with_name(path.name + ".part")
  with open(part, "w", encoding="utf-8", newline="") as file:
    file.write(text)
    file.flush()
    os.fsync(file.fileno())
  os.replace(part, path)
