"""Stand-in encoders of a tree: trained on its training split, applied to all of it.

records(train) --> stand-in CLIP --> ELIXR files of form A for every image
"""

from collections.abc import Sequence

import numpy as np

from cxr_diffusion_jax import types
from cxr_diffusion_jax.data.image_sets import image_set
from cxr_diffusion_jax.data.records import records as records_lib
from cxr_diffusion_jax.data.settings import DataSettings
from cxr_diffusion_jax.encoders.clip import record_prompts
from cxr_diffusion_jax.encoders.standin import elixr as standin_elixr
from cxr_diffusion_jax.encoders.standin import training as standin


def train_clip(
  settings: DataSettings,
  records: records_lib.Records,
  progress: types.Progress = types.no_progress,
) -> None:
  """Trains a CLIP on the training split alone, unless its folder has it already."""
  standin.train_standin(
    image_set.record_images(records, "train"),
    record_prompts.of_split(settings, records, "train"),
    records.fields("train")["findings"],
    settings.standin_clip,
    settings=standin.TrainSettings(num_steps=settings.standin_steps),
    progress=progress,
  )


def write_elixr(
  settings: DataSettings,
  records: records_lib.Records,
  kinds: Sequence[str],
  progress: types.Progress = types.no_progress,
) -> None:
  """Trains the CLIP if need be, and writes kinds of embedding below `standin_root`."""
  train_clip(settings, records, progress)
  filled = [split for split, n in records.num_rows.items() if n]
  standin_elixr.write_standin_elixr(
    settings.standin_clip,
    ids=np.concatenate([records.ids(split) for split in filled]).tolist(),
    images=image_set.chain(
      [image_set.record_images(records, split) for split in filled]
    ),
    prompts=[
      text
      for split in filled
      for text in record_prompts.of_split(settings, records, split)
    ],
    root=settings.standin_root,
    kinds=kinds,
    mark=prompts_mark(settings, records),
    progress=progress,
  )


def prompts_mark(settings: DataSettings, records: records_lib.Records) -> str:
  """What the stand-in files of these prompts have in their encoder's name."""
  return f", prompts {record_prompts.fingerprint(settings, records)[:8]}"
