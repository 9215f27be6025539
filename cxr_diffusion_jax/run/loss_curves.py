"""The loss curves of a run, read from the TensorBoard events in its folder.

WORKDIR/events.out.tfevents.* -> {tag: (steps, values)}
"""

import os

TAGS = ("train/loss", "validation/loss", "validation/loss_unconditional")

# Tag -> ascending steps and their values.
Curves = dict[str, tuple[list[int], list[float]]]


def read(workdir: str | os.PathLike) -> Curves:
  """Reads the loss curves of a run: those of `TAGS` that it has logged."""
  # Slow to import.
  from tensorboard.backend.event_processing import event_accumulator
  from tensorboard.util import tensor_util

  events = event_accumulator.EventAccumulator(
    os.fspath(workdir), size_guidance={event_accumulator.TENSORS: 0}
  )
  events.Reload()
  curves = {}
  for tag in TAGS:
    if tag not in events.Tags()["tensors"]:
      continue
    # A run that was killed and resumed logs some steps twice; keep the last value.
    # Files of one second are read in the order of their names, not of their events.
    ordered = sorted(events.Tensors(tag), key=lambda event: event.wall_time)
    values = {
      event.step: float(tensor_util.make_ndarray(event.tensor_proto))
      for event in ordered
    }
    curves[tag] = (sorted(values), [values[step] for step in sorted(values)])
  return curves
