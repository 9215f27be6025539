"""Turns a tree of X-rays into records, and downloads or makes what it lacks.

  python -m cxr_diffusion_jax.prepare --config configs/elixr_c.py \\
    --config.data.root=nih-cxr [--download nih,elixr] [--resize] [--embed elixr] \\
    [--check_embeddings 256] [--standin] [--shard P/N]

A second call does nothing; an interrupted one resumes.
"""

import functools
from typing import TYPE_CHECKING

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.cli import command, configs, flag_help, prepare_flags

if TYPE_CHECKING:
  from cxr_diffusion_jax.data import settings as data_settings

with flag_help.group("Data"):
  _CONFIG = configs.define()
_FLAGS = prepare_flags.define()


def main() -> None:
  """Downloads, resizes, and makes records and columns."""
  from cxr_diffusion_jax.data.download import download
  from cxr_diffusion_jax.encoders.elixr import agreement as elixr_agreement
  from cxr_diffusion_jax.encoders.elixr import embed as elixr_embed
  from cxr_diffusion_jax.encoders.elixr import model as elixr_model
  from cxr_diffusion_jax.encoders.elixr import saved_model as elixr_saved_model
  from cxr_diffusion_jax.encoders.elixr.files.file import SHAPES
  from cxr_diffusion_jax.run import dataset as dataset_lib
  from cxr_diffusion_jax.run import preparation
  from cxr_diffusion_jax.training import experiment as experiment_lib

  config, shard = _CONFIG.value, prepare_flags.shard(_FLAGS)
  given = {name: holder.value for name, holder in _FLAGS.items()}
  num_checked = given["check_embeddings"]
  load_fn = functools.cache(elixr_model.load)
  models = given["elixr_models"] or elixr_saved_model.HUB_ID
  if given["standin"]:
    config.data.standin = True
    if "encoder" in config.conditioning:
      config.conditioning.encoder = "standin"
  experiment = experiment_lib.build(config)
  settings = experiment.data
  checked = [
    name for name in experiment.recipe.conditioner.needs.columns if name in SHAPES
  ]
  if num_checked and (num_checked < 2 or not checked):
    raise errors.InputError(
      f"--check_embeddings {num_checked} of columns {', '.join(checked) or 'none'}",
      f"2 rows or more, and a path that reads one of {', '.join(sorted(SHAPES))}",
    )
  for what in given["download"]:
    download.download(
      what, settings.nih_root or settings.root, progress=command.progress
    )
  if given["download"]:
    # What a path reads may depend on the files that are there.
    experiment = experiment_lib.build(config)
  if given["resize"]:
    _resize(settings)
  if given["embed"]:
    elixr_embed.embed_named(
      settings,
      given["embed"],
      experiment.recipe.conditioner.needs,
      load_fn(models),
      command.progress,
    )
  if num_checked:
    # Fail on models that are not there before making records.
    load_fn(models)
  asked = preparation.Asked(
    needs=experiment.recipe.conditioner.needs,
    targets=experiment.targets,
    autoencoder=experiment.autoencoder,
  )
  if shard[1] > 1:
    print(preparation.make_share(settings, asked, shard, command.progress))
    return
  dataset = dataset_lib.prepare(
    settings,
    asked.needs,
    targets=asked.targets,
    autoencoder=asked.autoencoder,
    progress=command.progress,
  )
  for split in ("train", "validation"):
    # Fail on an empty split here, where the user can fix it.
    dataset.source(split)
  for name in checked if num_checked else ():
    agreement = elixr_agreement.measure(
      settings,
      dataset.records,
      name,
      load_fn(models),
      num_checked,
      command.progress,
    )
    print(f"{name}, in files and made here: {agreement.text}")
  print(f"{dataset.summary()}; in {dataset.records.folder}")


def _resize(settings: "data_settings.DataSettings") -> None:
  """Writes resized copies of NIH's images into the tree."""
  from cxr_diffusion_jax.data.sources.nih import layout

  if settings.nih_root is None:
    raise errors.InputError(
      f"--resize with config.data.source={settings.source}",
      "source nih",
      "leave it out: records hold each image at config.data.image_size",
    )
  layout.resize_tree(
    settings.nih_root,
    settings.image_size,
    mode=settings.resize,
    progress=command.progress,
  )


if __name__ == "__main__":
  command.run(main)
