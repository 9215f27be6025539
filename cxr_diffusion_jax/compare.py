"""Compares runs of different conditioning paths on the same records.

  python -m cxr_diffusion_jax.compare --workdirs runs/elixr_b,runs/elixr_c --out report

writes OUT/table.md, OUT/metrics.json, OUT/comparison.png, one row a path, and
OUT/losses.png. What an earlier call generated is not generated again.
"""

import pathlib

from absl import flags

from cxr_diffusion_jax import command
from cxr_diffusion_jax.evaluation import comparison

_WORKDIRS = flags.DEFINE_list("workdirs", None, "Folders of runs on the same records.")
_OUT = flags.DEFINE_string("out", None, "Where to write.")
_NUM = flags.DEFINE_integer("num", 256, "Conditions, one image each.", lower_bound=2)
_SPLIT = flags.DEFINE_string("split", "test", "Split that conditions are taken from.")
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the noise.")
_BATCH = flags.DEFINE_integer("batch_size", 32, "Images a call.", lower_bound=1)
_LENGTH = flags.DEFINE_float(
  "ema_length", None, "Of averages made of snapshots (train.power_ema), such as 0.07."
)
flags.mark_flags_as_required(["workdirs", "out"])


def main() -> None:
  """Generates with every run, judges, and prints the table."""
  text = comparison.compare(
    [pathlib.Path(workdir) for workdir in _WORKDIRS.value],
    command.writable_folder(_OUT.value),
    num=_NUM.value,
    split=_SPLIT.value,
    seed=_SEED.value,
    batch_size=_BATCH.value,
    ema_length=_LENGTH.value,
    progress=command.progress,
  )
  print(text)


if __name__ == "__main__":
  command.run(main)
