"""The scalars of a run, read back from the TensorBoard events in its folder.

WORKDIR/events.out.tfevents.* -> {tag: (steps, values)}
"""

import pathlib

from tensorboard.backend.event_processing import event_accumulator
from tensorboard.util import tensor_util

TAGS = ("train/loss", "validation/loss", "validation/loss_unconditional")


def read(workdir: pathlib.Path) -> dict[str, tuple[list[int], list[float]]]:
  """Reads the loss curves of a run.

  Returns:
    Steps, ascending, and values, for each of `TAGS` that the run has told.
  """
  events = event_accumulator.EventAccumulator(
    str(workdir), size_guidance={event_accumulator.TENSORS: 0}
  )
  events.Reload()
  curves = {}
  for tag in TAGS:
    if tag not in events.Tags()["tensors"]:
      continue
    # A run that was killed tells some steps twice; the last word counts.
    values = {
      event.step: float(tensor_util.make_ndarray(event.tensor_proto))
      for event in events.Tensors(tag)
    }
    curves[tag] = (sorted(values), [values[step] for step in sorted(values)])
  return curves
