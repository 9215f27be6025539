"""A trained run: a folder that can be moved, copied or read from a bucket.

WORKDIR/{config.json, dataset.json, checkpoints/} --open_run--> Run

Opening a run never touches its dataset; `Run.dataset` opens it for requests that name
rows.
"""

import dataclasses
import functools
import os
from typing import Self

from etils import epath
import jax

from cxr_diffusion_jax import artifacts, errors, types
from cxr_diffusion_jax.conditioning import base as conditioning
from cxr_diffusion_jax.data import settings as data_settings
from cxr_diffusion_jax.encoders import base as encoders
from cxr_diffusion_jax.encoders.latents import autoencoders
from cxr_diffusion_jax.parallel import sharding
from cxr_diffusion_jax.run import card as card_lib
from cxr_diffusion_jax.run import checkpoints, compatibility, sections, snapshots
from cxr_diffusion_jax.run import dataset as dataset_lib
from cxr_diffusion_jax.run import recipe as recipe_lib


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Run:
  """A trained run.

  Attributes:
    recipe: with a codec built from the card's statistics, on this machine's mesh.
    checkpoint_step: the step of `ema_params`. For the fields below, see `open`.
    choice: how that step was chosen: `best` or `newest`; "" for a given one.
  """

  folder: epath.Path
  config: artifacts.JsonMapping
  card: card_lib.DatasetCard
  recipe: recipe_lib.Recipe
  ema_params: types.Params
  checkpoint_step: int
  choice: str = ""
  ema_length: float | None = None
  data_root: str = ""
  records_dir: str = ""
  encoder: str = ""

  @classmethod
  def open(
    cls,
    folder: artifacts.PathLike,
    *,
    checkpoint: int | str = checkpoints.BEST,
    ema_length: float | None = None,
    data_root: str = "",
    records_dir: str = "",
    encoder: str = "",
  ) -> Self:
    """Opens a run; reads only its config, card and averaged parameters.

    Args:
      folder: the run's folder, local or in a bucket.
      checkpoint: a step, `best` (of the lowest validation loss) or `newest`.
      ema_length: length of an average made from the run's snapshots; None for the
        run's own average.
      data_root: where the dataset is now, for requests that name rows.
      records_dir: where its records are now.
      encoder: folder or hub id where the path's encoder is now.

    Raises:
      errors.InputError: the folder has no run or no checkpoint.
    """
    folder = cls._find(folder)
    config, card = card_lib.read(folder)
    with checkpoints.open_manager(folder, read_only=True) as manager:
      newest = checkpoints.find_step(manager, checkpoints.NEWEST)
      # An average of snapshots may end where there is no checkpoint.
      own_step = ema_length is None
      at = checkpoints.find_step(manager, checkpoint) if own_step else newest
      saved = checkpoints.restore_run(manager, at)
    compatibility.check_unedited(folder, saved, config, card, newest=at == newest)
    # Older versions stored no shapes.
    shapes = {name: column.shape for name, column in card.columns.items()}
    shapes["findings"] = (len(card.vocabulary),)
    own = folder / autoencoders.OWN
    recipe = recipe_lib.build(
      config,
      statistics=card.statistics,
      shapes=shapes if all(shapes.values()) else None,
      autoencoder=os.fspath(own) if (own / "config.json").exists() else "",
    )
    if not all(shapes.values()):
      card = card.with_shapes(encoders.shapes(recipe.conditioner.needs))
    compatibility.check_autoencoder(card, recipe.autoencoder)
    params, step = read_params(folder, recipe, config, checkpoint, ema_length)
    return cls(
      folder=folder,
      config=config,
      card=card,
      recipe=recipe,
      ema_params=params,
      checkpoint_step=step,
      choice=_choice(checkpoint, ema_length),
      ema_length=ema_length,
      data_root=data_root,
      records_dir=records_dir,
      encoder=encoder,
    )

  @staticmethod
  def _find(folder: artifacts.PathLike) -> epath.Path:
    return epath.Path(folder)

  @property
  def needs(self) -> conditioning.Needs:
    """The columns that its path reads, with the encoder's present location."""
    return self.recipe.conditioner.needs.at(self.encoder)

  @property
  def seed(self) -> int:
    """The training seed."""
    return self.config["seed"]

  @property
  def name(self) -> str:
    """The folder's name, for titles."""
    return self.folder.name

  @property
  def checkpoint_text(self) -> str:
    """The step and how it was chosen, for titles and reports."""
    return f"step {self.checkpoint_step}" + (f" ({self.choice})" if self.choice else "")

  @functools.cached_property
  def data(self) -> data_settings.DataSettings:
    """Which X-rays it was trained on, and where they are now."""
    settings = sections.make(data_settings.DataSettings, "data", self.config["data"])
    records_dir = self.records_dir
    if not records_dir:
      before = self.card.records_dir
      # The path may not exist on another machine.
      records_dir = before if os.path.isdir(before) else settings.records_dir
    return dataclasses.replace(
      settings,
      root=self.data_root or self.card.root or settings.root,
      records_dir=records_dir,
      # Phantoms are only made for training, and only training draws captions.
      phantom_images=0,
      captions=1,
    )

  @functools.cached_property
  def dataset(self) -> dataset_lib.Dataset:
    """Its records and columns, opened on first use, for requests that name rows.

    Raises:
      errors.InputError: they are missing, or their content has changed.
    """
    records = self.data.records_folder / "records.json"
    if not (self.data.exists or records.is_file()):
      raise errors.InputError(
        f"neither the dataset {self.data.root} nor records of it in"
        f" {self.data.records_dir} exist, which this request reads",
        fix="name where they are now, with data_root or records_dir; prompts, findings,"
        " references and unconditional images do not read them",
      )
    dataset = dataset_lib.prepare(self.data, self.needs)
    compatibility.check_data(self.card, dataset.card, self.recipe.autoencoder)
    return dataset

  def has_image(self, image_id: str) -> bool:
    """Whether the dataset is available and has an image of this id."""
    try:
      records = self.dataset.records
    except errors.InputError:
      return False
    return any(image_id in records.ids(split) for split in self.dataset.splits)

  def params_at(self, step: int) -> types.Params:
    """The averaged parameters of another checkpoint.

    Raises:
      errors.InputError: there is no such checkpoint.
    """
    return read_params(self.folder, self.recipe, self.config, step, None)[0]


open_run = Run.open


def _choice(checkpoint: int | str, ema_length: float | None) -> str:
  if checkpoint == checkpoints.BEST and ema_length is not None:
    # Of averages made from snapshots, no validation loss is known.
    return checkpoints.NEWEST
  return "" if str(checkpoint).isdigit() else str(checkpoint)


def read_params(
  folder: epath.Path,
  recipe: recipe_lib.Recipe,
  config: artifacts.JsonMapping,
  checkpoint: int | str,
  ema_length: float | None,
) -> tuple[types.Params, int]:
  """Reads the averaged parameters of a checkpoint, and their step.

  With `ema_length`, they are combined from snapshots.
  """
  shapes = jax.eval_shape(recipe.init_fn, jax.random.key(0))
  like = jax.tree.map(
    lambda shape, place: jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=place),
    shapes,
    sharding.state_shardings(shapes, recipe.mesh, recipe.network.tensor_parallel),
  )
  if ema_length is not None:
    lengths = config["train"].get("power_ema", ())
    return snapshots.reconstruct(folder, lengths, ema_length, like, checkpoint)
  with checkpoints.open_manager(folder, read_only=True) as manager:
    step = checkpoints.find_step(manager, checkpoint)
    return checkpoints.restore_ema(manager, like, step), step
