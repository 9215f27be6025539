"""The prompt of every row of the records: written from labels, or taken from reports.

labels, boxes, view, age, sex --seed and id--> sentence     report column --> its text
"""

import hashlib

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.data import prompts
from cxr_diffusion_jax.data.records import records as records_lib
from cxr_diffusion_jax.data.settings import DataSettings


def of_split(
  settings: DataSettings, records: records_lib.Records, split: str
) -> list[str]:
  """Returns one text a row of a split, in row order.

  Raises:
    errors.InputError: reports are asked for, and the tree has none or not for all.
  """
  fields = records.fields(split)
  ids = fields["id"].tolist()
  if settings.prompts == "report":
    reports = records.reports(split)
    if reports is None:
      raise errors.InputError(
        f"config.data.prompts=report, but {settings.root} has no reports",
        "a column `report` in Data_Entry_2017.csv",
        "add it, or set config.data.prompts=labels",
      )
    missing = [name for name, text in zip(ids, reports, strict=True) if not text]
    if missing:
      raise errors.InputError(
        f"{len(missing)} images of {settings.root} have no report, as {missing[0]}",
        "one each",
        "add them, or set config.data.prompts=labels",
      )
    return reports
  return prompts.texts(
    ids,
    fields["findings"],
    fields["view"],
    fields["age"],
    fields["sex"],
    # Sides and zones are those of the whole image, whatever a crop leaves of it.
    records.boxes(split),
    vocabulary=records.vocabulary,
    seed=settings.prompt_seed,
  )


def fingerprint(settings: DataSettings, records: records_lib.Records) -> str:
  """A hash of all that the result of `of_split` depends on."""
  # The records' own fingerprint covers labels, boxes and reports.
  facts = [records.fingerprint, settings.prompts, settings.prompt_seed]
  facts += [prompts.fingerprint()] if settings.prompts == "labels" else []
  return hashlib.sha256(repr(facts).encode()).hexdigest()
