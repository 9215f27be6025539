"""The loss curves of runs, read back from the TensorBoard events in their folders.

WORKDIR/events.out.tfevents.* -> {tag: (steps, values)} -> a picture of one run or many
"""

from collections.abc import Mapping, Sequence
import io
import pathlib

import matplotlib.figure
from PIL import Image
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


def picture(
  runs: Mapping[str, Mapping[str, tuple[list[int], list[float]]]],
  tags: Sequence[str] = TAGS,
) -> Image.Image:
  """Draws loss over steps, a colour a run and a line style a tag; the loss by its log.

  Args:
    runs: name -> what `read` gave; with a single run its name is not told.
    tags: those to draw, where a run has them.
  """
  figure = matplotlib.figure.Figure(figsize=(8, 3.2), dpi=110, layout="constrained")
  axes = figure.add_subplot()
  styles = dict(zip(TAGS, ("-", "-", "--"), strict=True))
  for number, (name, curves) in enumerate(runs.items()):
    for tag in (tag for tag in tags if tag in curves):
      steps, values = curves[tag]
      axes.plot(
        *(steps, values),
        label=tag if len(runs) == 1 else f"{name}: {tag}",
        color=None if len(runs) == 1 else f"C{number}",
        linestyle="-" if len(runs) == 1 else styles[tag],
        marker="." if "validation" in tag else None,
      )
  axes.set_xlabel("step")
  axes.set_ylabel("loss")
  axes.set_yscale("log")
  if axes.lines:
    axes.legend(fontsize="small")
  buffer = io.BytesIO()
  figure.savefig(buffer, format="png")
  return Image.open(buffer)
