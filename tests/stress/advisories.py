"""Compares the installed packages with a copy of Python's advisory database.

  git clone https://github.com/pypa/advisory-database
  python tests/stress/advisories.py advisory-database

For machines that reach no advisory service; `pip-audit` asks one and is newer. Prints
the newest advisory's date, and a line for each advisory that affects an installed
version; exit code 1 where there is one.
"""

import argparse
from collections.abc import Mapping, Sequence
import importlib.metadata
import pathlib
import sys
from typing import cast

from packaging.utils import canonicalize_name
from packaging.version import Version
import yaml


def is_affected(affected: Mapping[str, object], version: str) -> bool:
  """Whether an OSV `affected` entry covers a version, by its list or its ranges."""
  if version in cast(Sequence[str], affected.get("versions", ())):
    return True
  ranges = cast(Sequence[Mapping[str, object]], affected.get("ranges", ()))
  return any(
    _in_range(cast(Sequence[Mapping[str, str]], entry["events"]), Version(version))
    for entry in ranges
    if entry["type"] == "ECOSYSTEM"
  )


def _in_range(events: Sequence[Mapping[str, str]], version: Version) -> bool:
  """OSV's rule: the last event at or before the version decides."""
  inside = False
  for event in events:
    ((kind, bound),) = event.items()
    if kind == "introduced" and version >= Version(bound):
      inside = True
    elif (kind == "fixed" and version >= Version(bound)) or (
      kind == "last_affected" and version > Version(bound)
    ):
      inside = False
  return inside


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("database", type=pathlib.Path)
  database = parser.parse_args().database
  installed = {
    canonicalize_name(item.metadata["Name"]): item.version
    for item in importlib.metadata.distributions()
  }
  num, newest, known, lines = 0, "", set(), []
  for path in sorted((database / "vulns").glob("*/*.yaml")):
    advisory = yaml.load(
      path.read_text(), getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    )
    num += 1
    newest = max(newest, str(advisory["modified"]))
    if "withdrawn" in advisory:
      continue
    for affected in advisory["affected"]:
      name = canonicalize_name(affected["package"]["name"])
      if name not in installed:
        continue
      known.add(name)
      if is_affected(affected, installed[name]):
        names = " ".join([advisory["id"], *advisory.get("aliases", [])])
        lines.append(f"{name} {installed[name]}: {names}")
  if not num:
    sys.exit(f"{database}/vulns holds no advisories: name a checkout of the database")
  print(f"{num} advisories, the newest of {newest}")
  print(
    f"{len(installed)} packages, {len(known)} of them with advisories of any version"
  )
  print("\n".join(lines) or "none affects an installed version")
  sys.exit(bool(lines))


if __name__ == "__main__":
  main()
