"""The only reader of a config: `build(config)` turns it into typed, checked objects.

  ConfigDict --build--> Experiment(data, conditioner, process, ..., train) --> the rest

Below this file there are only typed arguments. A key that nothing reads is an error
that names the nearest keys; so is a value that a constructor refuses.
"""

from collections.abc import Callable, Mapping
import dataclasses
import difflib
import inspect
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import ml_collections

from cxr_diffusion_jax import errors, types
from cxr_diffusion_jax.conditioning import base as conditioning
from cxr_diffusion_jax.diffusion import loss as loss_lib
from cxr_diffusion_jax.diffusion import process as process_lib
from cxr_diffusion_jax.diffusion import schedule as schedule_lib
from cxr_diffusion_jax.diffusion import time_sampler as time_sampler_lib
from cxr_diffusion_jax.models import codec as codec_lib
from cxr_diffusion_jax.models import unet
from cxr_diffusion_jax.parallel import mesh as mesh_lib
from cxr_diffusion_jax.preparation import dataset as dataset_lib
from cxr_diffusion_jax.training import generate as generate_lib
from cxr_diffusion_jax.training import optimizer as optimizer_lib
from cxr_diffusion_jax.training import step as step_lib

T = TypeVar("T")

SECTIONS = (
  "codec",
  "conditioning",
  "data",
  "diffusion",
  "model",
  "optimizer",
  "parallel",
  "sample",
  "train",
)

MODELS = {"unet": unet.UNet}


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainSettings:
  """How long a run trains, and what it tells on the way. Periods are in steps.

  Attributes:
    num_steps: updates in all.
    batch_size: examples of one update, over all devices and hosts.
    ema_decay: of the parameters' moving average.
    log_every: scalars.
    validate_every: validation loss on averaged parameters, fixed times and noise.
    validation_batches: batches of validation rows used each time; 0 for all.
    sample_every: a picture of samples; 0 for none but the first and last.
    checkpoint_every: checkpoints, each with a validation loss.
    keep: newest checkpoints kept beside the best one.
    keep_every: keep every checkpoint at a multiple of so many steps; 0 for none.
    patience: stop after so many validations without a new best; 0 for never.
    profile_steps: steps of a profile written to WORKDIR/plugins; 0 for none.
  """

  num_steps: int
  batch_size: int
  ema_decay: float = 0.9999
  log_every: int = 100
  validate_every: int = 1000
  validation_batches: int = 0
  sample_every: int = 5000
  checkpoint_every: int = 1000
  keep: int = 2
  keep_every: int = 0
  patience: int = 0
  profile_steps: int = 0

  def __post_init__(self):
    for name in ("num_steps", "batch_size", "log_every", "validate_every"):
      _at_least("train", name, getattr(self, name), 1)
    for name in ("checkpoint_every", "keep"):
      _at_least("train", name, getattr(self, name), 1)
    if not 0 <= self.ema_decay < 1:
      raise errors.InputError(f"config.train.ema_decay={self.ema_decay}", "[0, 1)")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
  """All of a run but its data: typed, checked, without side effects.

  Attributes:
    seed: of everything random.
    data: which X-rays.
    conditioner: the conditioning path.
    make_codec: statistics of the records -> codec.
    make_objective: codec -> objective.
    init_fn: (key) -> parameters of the denoiser.
    latent_shape: (h, w, c) of what is denoised.
    optimizer: how parameters are updated.
    train: how long.
    sample: how images are drawn.
    mesh: the devices.
    config: the config as plain values, for checkpoints.
  """

  seed: int
  data: dataset_lib.DataSettings
  conditioner: conditioning.Conditioner
  make_codec: Callable[[Mapping[str, Any]], codec_lib.Codec]
  make_objective: Callable[[codec_lib.Codec], step_lib.Objective]
  init_fn: Callable[[jax.Array], types.Params]
  latent_shape: tuple[int, int, int]
  optimizer: optimizer_lib.OptimizerSettings
  train: TrainSettings
  sample: generate_lib.SampleSettings
  mesh: jax.sharding.Mesh
  config: Mapping[str, Any]


def build(config: ml_collections.ConfigDict | Mapping[str, Any]) -> Experiment:
  """Reads a config.

  Args:
    config: as `configs/default.py` makes it, or as plain values.

  Raises:
    errors.InputError: an unknown key, a missing one, or a value out of range.
  """
  plain = _plain(config)
  _check_keys("config", plain, ("seed", *SECTIONS))
  missing = [name for name in ("seed", *SECTIONS) if name not in plain]
  if missing:
    raise errors.InputError(f"a config without {', '.join(missing)}")
  data = _make(dataset_lib.DataSettings, "data", plain["data"])
  train = _make(TrainSettings, "train", plain["train"])
  optimizer = _make(optimizer_lib.OptimizerSettings, "optimizer", plain["optimizer"])
  mesh = _make(mesh_lib.make_mesh, "parallel", plain["parallel"])
  conditioner, drop_rates = _conditioner(plain["conditioning"])
  make_codec = _codec(plain["codec"])
  latent_shape = make_codec({}).latent_shape(data.image_size)
  model, init_fn = _model(plain["model"], latent_shape, conditioner.streams)
  _check_batch(train, optimizer, mesh)
  diffusion = _diffusion(plain["diffusion"])

  def make_objective(codec: codec_lib.Codec) -> step_lib.Objective:
    return step_lib.Objective(
      apply_fn=model.apply,
      codec=codec,
      conditioner=conditioner,
      drop_rates=drop_rates,
      **diffusion,
    )

  return Experiment(
    seed=plain["seed"],
    data=data,
    conditioner=conditioner,
    make_codec=make_codec,
    make_objective=make_objective,
    init_fn=init_fn,
    latent_shape=latent_shape,
    optimizer=optimizer,
    train=train,
    sample=_make(generate_lib.SampleSettings, "sample", plain["sample"]),
    mesh=mesh,
    config=plain,
  )


def _conditioner(
  section: Mapping[str, Any],
) -> tuple[conditioning.Conditioner, tuple[float, ...]]:
  section = dict(section)
  rates = section.pop("drop_rate", 0.1)
  make = conditioning.load(section.pop("name", ""))
  conditioner = _make(make, "conditioning", section, also=("name", "drop_rate"))
  streams = conditioner.streams
  rates = tuple(rates) if isinstance(rates, list | tuple) else (rates,) * len(streams)
  if len(rates) != len(streams) or not all(0 <= rate <= 1 for rate in rates):
    raise errors.InputError(
      f"config.conditioning.drop_rate={rates}",
      f"one probability, or {len(streams)}: "
      + ", ".join(stream.name for stream in streams),
    )
  return conditioner, rates


def _codec(
  section: Mapping[str, Any],
) -> Callable[[Mapping[str, Any]], codec_lib.Codec]:
  section = dict(section)
  name = section.pop("name", "")
  if name == "pixel":
    _check_keys("config.codec", section, ())
    return lambda statistics: codec_lib.Pixel()
  if name != "haar":
    raise errors.InputError(f"config.codec.name={name!r}", "pixel or haar")
  _check_keys("config.codec", section, ("levels",))
  levels = section.get("levels", 2)

  def make(statistics: Mapping[str, Any]) -> codec_lib.Codec:
    bands = statistics.get("haar", {}).get(str(levels))
    if bands is None:
      # Before the records are read, only the shapes are of interest.
      bands = {"mean": (0.0,) * 4**levels, "std": (1.0,) * 4**levels}
    return codec_lib.Haar(
      levels=levels, mean=tuple(bands["mean"]), std=tuple(bands["std"])
    )

  return make


def _model(
  section: Mapping[str, Any],
  latent_shape: tuple[int, int, int],
  streams: tuple[types.StreamSpec, ...],
) -> tuple[Any, Callable[[jax.Array], types.Params]]:
  section = dict(section)
  name = section.pop("name", "")
  if name not in MODELS:
    raise errors.InputError(
      f"config.model.name={name!r}", f"one of {', '.join(sorted(MODELS))}"
    )
  dtype = section.pop("dtype", "auto")
  if dtype == "auto":
    # bfloat16 is emulated, and slow, on a CPU.
    dtype = "float32" if jax.default_backend() == "cpu" else "bfloat16"
  settings = {
    key: tuple(value) if isinstance(value, list) else value
    for key, value in section.items()
  }
  model = _make(
    MODELS[name],
    "model",
    settings
    | {
      "dtype": jnp.dtype(dtype),
      "out_channels": latent_shape[-1],
      "context_streams": streams,
    },
    also=("name",),
  )
  context = tuple(
    types.TokenStream(
      tokens=jnp.zeros((1, stream.num_tokens, stream.width)),
      mask=jnp.ones((1, stream.num_tokens), bool),
    )
    for stream in streams
  )

  def init_fn(key: jax.Array) -> types.Params:
    x_t = jnp.zeros((1, *latent_shape))
    return model.init(key, x_t, jnp.zeros((1,)), context)["params"]

  return model, init_fn


def _diffusion(section: Mapping[str, Any]) -> dict[str, Any]:
  modules = {
    "schedule": schedule_lib,
    "time_sampler": time_sampler_lib,
    "weighting": loss_lib,
  }
  _check_keys("config.diffusion", section, ("prediction", *modules))
  parts = {}
  for name, module in modules.items():
    part = dict(section[name])
    make = module.load(part.pop("name", ""))
    parts[name] = _make(make, f"diffusion.{name}", part, also=("name",))
  process = process_lib.Process(
    schedule=parts.pop("schedule"), prediction=section["prediction"]
  )
  return {"process": process, **parts}


def _check_batch(
  train: TrainSettings,
  optimizer: optimizer_lib.OptimizerSettings,
  mesh: jax.sharding.Mesh,
) -> None:
  parts = mesh.shape["data"] * mesh.shape["fsdp"] * optimizer.accumulation
  if train.batch_size % parts:
    raise errors.InputError(
      f"config.train.batch_size={train.batch_size}",
      f"a multiple of {parts}: devices that share a batch"
      f" ({parts // optimizer.accumulation})"
      f" times config.optimizer.accumulation ({optimizer.accumulation})",
    )


def _make(
  make: Callable[..., T],
  section: str,
  values: Mapping[str, Any],
  also: tuple[str, ...] = (),
) -> T:
  """Calls a constructor with a section's values, whose keys are its arguments."""
  signature = inspect.signature(make)
  names = tuple(
    name for name in signature.parameters if name not in ("parent", "kwargs")
  )
  _check_keys(f"config.{section}", values, names, also)
  try:
    signature.bind(**values)
  except TypeError as error:
    raise errors.InputError(f"config.{section}: {error}") from error
  return make(**values)


def _check_keys(
  prefix: str,
  values: Mapping[str, Any],
  known: tuple[str, ...],
  also: tuple[str, ...] = (),
) -> None:
  known = (*known, *also)
  for key in values:
    if key not in known:
      near = difflib.get_close_matches(key, known, n=3, cutoff=0.5)
      raise errors.InputError(
        f"unknown key {prefix}.{key}",
        f"one of {', '.join(sorted(known)) or 'none'}",
        f"did you mean {', '.join(near)}?" if near else "",
      )


def _at_least(section: str, name: str, value: float, least: float) -> None:
  if value < least:
    raise errors.InputError(f"config.{section}.{name}={value}", f"{least} or more")


def _plain(config: Any) -> Any:
  """Returns a config as dicts, lists and scalars."""
  if isinstance(config, ml_collections.ConfigDict):
    config = config.to_dict()
  if isinstance(config, Mapping):
    return {key: _plain(value) for key, value in config.items()}
  if isinstance(config, list | tuple):
    return [_plain(value) for value in config]
  return config
