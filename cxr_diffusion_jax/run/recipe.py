"""The half of a config that sampling needs: `build(config)` -> Recipe, checked.

  {conditioning, codec, model, diffusion, sample} --build--> Recipe(denoiser, ...)

`training.experiment` reads the other half. Code below these two files takes only typed
arguments. An unknown key is an error that names the nearest keys.
"""

from collections.abc import Callable, Mapping
import dataclasses

import jax
import ml_collections

from cxr_diffusion_jax import artifacts, errors, types
from cxr_diffusion_jax.conditioning import base as conditioning
from cxr_diffusion_jax.data import settings as data_settings
from cxr_diffusion_jax.data.records import records as records_lib
from cxr_diffusion_jax.encoders import base as encoders
from cxr_diffusion_jax.encoders.latents import autoencoders
from cxr_diffusion_jax.models import codec as codec_lib
from cxr_diffusion_jax.models import network as network_lib
from cxr_diffusion_jax.parallel import mesh as mesh_lib
from cxr_diffusion_jax.run import (
  augmentation,
  codec_section,
  diffusion_section,
  model_section,
  null_context,
  sample_section,
  sections,
)
from cxr_diffusion_jax.run import denoiser as denoiser_lib

Config = ml_collections.ConfigDict | artifacts.JsonMapping

SECTIONS = (
  "codec",
  "conditioning",
  "data",
  "diffusion",
  "model",
  "optimizer",
  "parallel",
  "repa",
  "sample",
  "train",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
  """Everything in a config that sampling needs.

  Attributes:
    make_codec: statistics of the records -> codec.
    init_fn: (key) -> parameters of the network.
    latent_shape: (h, w, c) of what is denoised.
  """

  denoiser: denoiser_lib.Denoiser
  make_codec: Callable[[artifacts.JsonMapping], codec_lib.Codec]
  network: network_lib.Network
  init_fn: Callable[[jax.Array], types.Params]
  latent_shape: tuple[int, int, int]
  sample: sample_section.SampleSettings
  autoencoder: autoencoders.Autoencoder | None
  mesh: jax.sharding.Mesh

  @property
  def conditioner(self) -> conditioning.Conditioner:
    """The conditioning path."""
    return self.denoiser.conditioner

  @property
  def codec(self) -> codec_lib.Codec:
    """Pixels <-> what is denoised."""
    return self.denoiser.codec

  def with_statistics(self, statistics: artifacts.JsonMapping) -> "Recipe":
    """Returns the recipe with codec and null condition from measured statistics."""
    return dataclasses.replace(self, denoiser=self.bound(self.denoiser, statistics))

  def bound(
    self, denoiser: denoiser_lib.Denoiser, statistics: artifacts.JsonMapping
  ) -> denoiser_lib.Denoiser:
    """Returns a denoiser of this recipe with what follows from the statistics."""
    return dataclasses.replace(
      denoiser,
      codec=self.make_codec(statistics),
      conditioner=null_context.bind(denoiser.conditioner, statistics),
    )


def build(
  config: Config,
  *,
  mesh: jax.sharding.Mesh | None = None,
  statistics: artifacts.JsonMapping | None = None,
  shapes: Mapping[str, tuple[int, ...]] | None = None,
  autoencoder: str = "",
) -> Recipe:
  """Reads the sampling half of a config.

  Args:
    config: a ConfigDict as in `configs/default.py`, or plain values.
    mesh: the devices; None for pure data parallelism over all devices.
    autoencoder: folder of the codec's autoencoder, replacing the config's.
    shapes: shape of one row of each of the path's columns and of `findings`, from a
      run's dataset card; None to read them from the encoders' configurations and the
      dataset's vocabulary.

  Raises:
    errors.InputError: an unknown key, a missing one, or a value out of range.
  """
  plain = read_config(config)
  mesh = mesh_lib.make_mesh() if mesh is None else mesh
  conditioner, _ = conditioner_section(plain, shapes)
  own = {"folder": autoencoder} if autoencoder else {}
  codec = codec_section.build({**plain["codec"], **own})
  image_size = plain["data"]["image_size"]
  latent_shape = codec.make({}).latent_shape(image_size)
  streams = conditioner.streams
  if plain["data"].get("augment"):
    if codec.autoencoder is not None:
      raise errors.InputError(
        f"config.data.augment={plain['data']['augment']} with latents that are encoded"
        " once",
        "a codec that encodes each step's images: haar or pixel",
        "set config.data.augment=0",
      )
    streams = (*streams, augmentation.STREAM)
  network, init_fn = model_section.build(
    plain["model"], latent_shape, streams, platform=mesh_lib.platform(mesh)
  )
  diffusion = diffusion_section.build(plain["diffusion"])
  return Recipe(
    denoiser=denoiser_lib.Denoiser(
      apply_fn=network.apply,
      codec=codec.make(statistics or {}),
      conditioner=null_context.bind(conditioner, statistics or {}),
      process=diffusion["process"],
      preconditioning=diffusion["preconditioning"],
    ),
    make_codec=codec.make,
    network=network,
    init_fn=init_fn,
    latent_shape=latent_shape,
    sample=sections.make(sample_section.SampleSettings, "sample", plain["sample"]),
    autoencoder=codec.autoencoder,
    mesh=mesh,
  )


def read_config(
  config: Config,
) -> artifacts.Json:
  """Returns a config as plain values.

  Raises:
    errors.InputError: an unknown section, or a missing one.
  """
  plain = sections.plain(config)
  sections.check_keys("config", plain, ("seed", *SECTIONS))
  # `repa` is optional.
  needed = ("seed", *(name for name in SECTIONS if name != "repa"))
  missing = [name for name in needed if name not in plain]
  if missing:
    raise errors.InputError(f"a config without {', '.join(missing)}")
  return plain


def conditioner_section(
  plain: artifacts.JsonMapping,
  shapes: Mapping[str, tuple[int, ...]] | None = None,
) -> tuple[conditioning.Conditioner, tuple[float, ...]]:
  """Reads `config.conditioning`: the path, and each stream's drop rate in training."""
  section = dict(plain["conditioning"])
  rates = section.pop("drop_rate", 0.1)
  make = conditioning.load(section.pop("name", ""))
  conditioner = sections.make(make, "conditioning", section, also=("name", "drop_rate"))
  if shapes is None:
    shapes = encoders.shapes(conditioner.needs) | {"findings": _num_findings(plain)}
  conditioner = conditioning.with_shape(conditioner, shapes)
  if conditioner.needs.sources:
    names = plain["data"].get("source", "").split("+")
    if len(names) < 2:
      raise errors.InputError(
        f"config.conditioning.source_token=True with config.data.source={names[0]}",
        "several sources, such as nih+chexpert",
        "leave source_token out",
      )
    conditioner = dataclasses.replace(conditioner, num_sources=len(names))
  streams = conditioner.streams
  rates = tuple(rates) if isinstance(rates, list | tuple) else (rates,) * len(streams)
  if len(rates) != len(streams) or not all(0 <= rate <= 1 for rate in rates):
    raise errors.InputError(
      f"config.conditioning.drop_rate={rates}",
      f"one probability, or {len(streams)}: "
      + ", ".join(stream.name for stream in streams),
    )
  return conditioner, rates


def _num_findings(plain: artifacts.JsonMapping) -> tuple[int]:
  """The number of findings of the dataset, which may be absent so far."""
  data = plain["data"]
  keys = ("root", "source", "columns", "rename", "vocabulary", "records_dir")
  known = {key: data[key] for key in keys if key in data}
  settings = data_settings.DataSettings(
    **{"root": "", **known}, image_size=data.get("image_size", 256)
  )
  return (len(records_lib.vocabulary(settings)),)
