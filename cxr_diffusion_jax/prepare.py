"""Turns a tree of X-rays into records, and downloads or makes what it lacks.

  python -m cxr_diffusion_jax.prepare --config configs/elixr_c.py \
    --config.data.root=nih-cxr [--download nih,elixr] [--resize] [--embed elixr] \
    [--check_embeddings 256] [--standin]

A second call does nothing; an interrupted one resumes.
"""

import functools

from absl import flags

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.cli import command, configs, flag_help

with flag_help.group("Data"):
  _CONFIG = configs.define()
  _DOWNLOAD = flags.DEFINE_list(
    "download",
    [],
    "What to download into the root: nih, elixr, google-labels, google-nih-subset.",
  )
  _RESIZE = flags.DEFINE_bool(
    "resize", False, "Write resized copies to ROOT/{image_size}x{image_size}."
  )
with flag_help.group("Embeddings"):
  _STANDIN = flags.DEFINE_bool(
    "standin", False, "Make missing embeddings with small stand-in encoders."
  )
  _EMBED = flags.DEFINE_list(
    "embed",
    [],
    "ELIXR embeddings to make with its SavedModels: 'elixr' for those that the config's"
    " path reads, or names such as elixrc, txt_emb.",
  )
  _ELIXR = flags.DEFINE_string(
    "elixr_models",
    "",
    "Folder or hub id of ELIXR's SavedModels; google/cxr-foundation if empty.",
  )
  _CHECK = flags.DEFINE_integer(
    "check_embeddings",
    0,
    "Rows whose ELIXR embeddings in files are compared with those that the SavedModels"
    " make of the same images or prompts; 0 for none.",
    lower_bound=0,
  )


def main() -> None:
  """Downloads, resizes, and makes records and columns."""
  from cxr_diffusion_jax.data.download import download
  from cxr_diffusion_jax.data.sources.nih import layout
  from cxr_diffusion_jax.encoders.elixr import agreement as elixr_agreement
  from cxr_diffusion_jax.encoders.elixr import embed as elixr_embed
  from cxr_diffusion_jax.encoders.elixr import model as elixr_model
  from cxr_diffusion_jax.encoders.elixr import saved_model as elixr_saved_model
  from cxr_diffusion_jax.encoders.elixr.files.file import SHAPES
  from cxr_diffusion_jax.run import dataset as dataset_lib
  from cxr_diffusion_jax.training import experiment as experiment_lib

  config = _CONFIG.value
  load_fn = functools.cache(elixr_model.load)
  models = _ELIXR.value or elixr_saved_model.HUB_ID
  if _STANDIN.value:
    config.data.standin = True
    if "encoder" in config.conditioning:
      config.conditioning.encoder = "standin"
  experiment = experiment_lib.build(config)
  settings = experiment.data
  checked = [
    name for name in experiment.recipe.conditioner.needs.columns if name in SHAPES
  ]
  if _CHECK.value and (_CHECK.value < 2 or not checked):
    raise errors.InputError(
      f"--check_embeddings {_CHECK.value} of columns {', '.join(checked) or 'none'}",
      f"2 rows or more, and a path that reads one of {', '.join(sorted(SHAPES))}",
    )
  for what in _DOWNLOAD.value:
    download.download(
      what, settings.nih_root or settings.root, progress=command.progress
    )
  if _DOWNLOAD.value:
    # What a path reads may depend on the files that are there.
    experiment = experiment_lib.build(config)
  if _RESIZE.value:
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
  if _EMBED.value:
    elixr_embed.embed_named(
      settings,
      _EMBED.value,
      experiment.recipe.conditioner.needs,
      load_fn(models),
      command.progress,
    )
  if _CHECK.value:
    # Fail on models that are not there before making records.
    load_fn(models)
  dataset = dataset_lib.prepare(
    settings,
    experiment.recipe.conditioner.needs,
    targets=experiment.targets,
    autoencoder=experiment.autoencoder,
    progress=command.progress,
  )
  for split in ("train", "validation"):
    # Fail on an empty split here, where the user can fix it.
    dataset.source(split)
  for name in checked if _CHECK.value else ():
    agreement = elixr_agreement.measure(
      settings, dataset.records, name, load_fn(models), _CHECK.value, command.progress
    )
    print(f"{name}, in files and made here: {agreement.text}")
  print(f"{dataset.summary()}; in {dataset.records.folder}")


if __name__ == "__main__":
  command.run(main)
