"""The primary figure of a comparison: named before any image is judged.

--primary METRIC[:JUDGE] --declare--> OUT/primary.json, before the run --key_of--> Key
"""

from collections.abc import Sequence
import pathlib

from cxr_diffusion_jax import artifacts
from cxr_diffusion_jax.evaluation.measurement import Key

FILE = "primary.json"


def declare(primary: str, folder: pathlib.Path) -> list[str]:
  """Writes FOLDER/primary.json; a sentence where an earlier call named another."""
  path = folder / FILE
  named = artifacts.read_json(path)["primary"] if path.exists() else [primary]
  if primary not in named[-1:]:
    named = [*named, primary]
  artifacts.write_json(path, {"primary": named})
  if len(named) == 1:
    return []
  return [
    f"The primary figure was changed after a comparison: {', then '.join(named)}."
    " It is exploratory too."
  ]


def key_of(primary: str, keys: Sequence[Key], preferred: str) -> Key | None:
  """The key of all images of the figure that was named; None where not measured.

  Args:
    primary: METRIC, or METRIC:JUDGE with the beginning of the judge's name.
    preferred: the network that is meant where several judge and none is named.
  """
  metric, _, judge = primary.partition(":")
  found_keys = [key for key in keys if (key[1], key[3]) == (metric, "all")]
  for name in (judge,) if judge else (preferred, ""):
    for key in found_keys:
      if key[2].casefold().startswith(name.casefold()):
        return key
  return None
