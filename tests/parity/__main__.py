"""Prints how far this code is from its peers (PyTorch's diffusers first), by subject.

  pip install -r tests/parity/requirements.txt
  python tests/parity [SUBJECT ...]

Each other file of this folder is a subject: its `rows()` gives what was compared, a
number of ours, the peer's, their difference (as the name says), and its limit. Exits
with 1 where a difference is above its limit, or is no number.
"""

import importlib
import os
import pathlib
import sys

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

FOLDER = pathlib.Path(__file__).parent


def main(wanted: list[str]) -> int:
  """Prints the tables; returns how many differences are too large."""
  subjects = sorted(
    path.stem for path in FOLDER.glob("*.py") if path.stem != "__main__"
  )
  unknown = sorted(set(wanted) - set(subjects))
  if unknown:
    sys.exit(f"unknown subjects {', '.join(unknown)}; one of {', '.join(subjects)}")
  sys.path[:0] = [str(FOLDER), str(FOLDER.parents[1])]
  too_large = 0
  for subject in wanted or subjects:
    rows = list(importlib.import_module(subject).rows())
    width = max(len(what) for what, *_ in rows)
    print(f"\n{subject}\n{'':{width}}  {'ours':>12}  {'peer':>12}  difference    limit")
    for what, ours, peer, difference, limit in rows:
      # Written so that NaN is too large.
      wrong = not difference <= limit
      too_large += wrong
      print(
        f"{what:{width}}  {ours:12.6g}  {peer:12.6g}  {difference:10.2e}  {limit:.0e}"
        f"{'  TOO LARGE' if wrong else ''}",
        flush=True,
      )
  print(f"\n{too_large} differences above their limit")
  return int(too_large > 0)


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
