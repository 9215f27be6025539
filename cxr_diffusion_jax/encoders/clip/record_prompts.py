"""The prompt of every row of the records: written from labels, or taken from reports.

labels, boxes, view, age, sex --seed and id--> sentence     report column --> its text
"""

import hashlib

import numpy as np

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.data import labels, prompts
from cxr_diffusion_jax.data.records import records as records_lib
from cxr_diffusion_jax.data.settings import DataSettings
from cxr_diffusion_jax.data.sources.nih import boxes as boxes_lib
from cxr_diffusion_jax.data.sources.nih import layout, reports


def of_split(
  settings: DataSettings, records: records_lib.Records, split: str
) -> list[str]:
  """Returns one text a row of a split, in row order.

  Raises:
    errors.InputError: reports are asked for, and the tree has none or not for all.
  """
  fields = records.fields(split)
  ids = fields["id"].tolist()
  tree = layout.find_tree(settings.root)
  if settings.prompts == "report":
    told = reports.read_reports(tree.data_entry)
    absent = [name for name in ids if name not in told]
    if absent:
      raise errors.InputError(
        f"{len(absent)} images have no report in {tree.data_entry}, as {absent[0]}",
        "one each",
        "add them, or set config.data.prompts=labels",
      )
    return [told[name] for name in ids]
  in_pixels = boxes_lib.read_boxes(tree.boxes) if tree.boxes else {}
  boxes = np.full((len(ids), len(labels.FINDINGS), 4), np.nan, np.float32)
  for row, name in enumerate(ids):
    if name in in_pixels:
      # Sides and zones are those of the whole image, whatever a crop leaves of it.
      boxes[row] = in_pixels[name] / boxes_lib.NIH_SIZE
  return prompts.texts(
    ids,
    fields["findings"],
    fields["view"],
    fields["age"],
    fields["sex"],
    boxes,
    seed=settings.prompt_seed,
  )


def fingerprint(settings: DataSettings, records: records_lib.Records) -> str:
  """Tells apart what `of_split` would return, without returning it."""
  # The records' own fingerprint counts the CSV and the boxes by their content.
  facts = [records.fingerprint, settings.prompts, settings.prompt_seed]
  facts += [prompts.fingerprint()] if settings.prompts == "labels" else []
  return hashlib.sha256(repr(facts).encode()).hexdigest()
