"""A network that measures anatomy, trained on phantoms whose measures are known.

training images, facts --`probe_fit.fit`, squared error--> measurer.safetensors
image -> features before the last layer -> linear -> quantities in their own units

  loss = mean over images of sum over known quantities of (network - z)^2,
         z = (quantity - mean) / standard deviation, both over the training images

The same inputs give the same measurer on the same kind of machine, trained once. Its
own error on real images belongs beside all that it measures of generated ones.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import functools
import hashlib
import json
import os
import pathlib

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from cxr_diffusion_jax import artifacts, errors, types
from cxr_diffusion_jax.evaluation.judges import probe_fit
from cxr_diffusion_jax.evaluation.judges.probe_fit import ProbeSettings

FILE = "measurer.safetensors"

# Raised when what the same settings mean changes: then older ones are trained again.
FORMAT = 1

# Images that a measurer can learn from.
MIN_IMAGES = 32


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Measurer:
  """A trained network.

  Attributes:
    names: of the k quantities.
    mean: [k] float64, over the training images.
    scale: [k] float64, the standard deviation there.
    num_training: images that it was trained on.
    image_size: pixels of a side.
    settings: of the network.
    params: its parameters.
  """

  names: tuple[str, ...]
  mean: np.ndarray
  scale: np.ndarray
  num_training: int
  image_size: int
  settings: ProbeSettings
  params: types.Params

  def quantities(self, images: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """Measures n images, uint8 [s s 1] each: name -> [n] float64.

    Raises:
      errors.InputError: images of another size than it was trained on.
    """
    head = self.params["head"]
    made = [np.zeros((0, head["kernel"].shape[0]))]
    for first in range(0, len(images), self.settings.batch_size):
      places = np.arange(first, first + self.settings.batch_size)
      # The last image fills up: one shape, compiled once.
      batch = [images[int(i)] for i in np.minimum(places, len(images) - 1)]
      _check(batch, self.image_size)
      features = self._features_fn(self.params, np.stack(batch))
      made.append(np.asarray(features, np.float64))
    features = np.concatenate(made)[: len(images)]
    standard = features @ np.asarray(head["kernel"], np.float64) + head["bias"]
    values = np.asarray(standard) * self.scale + self.mean
    return dict(zip(self.names, values.T, strict=True))

  @functools.cached_property
  def _features_fn(self):
    return probe_fit.make_features_fn(self.settings, len(self.names))


def default_settings(image_size: int) -> ProbeSettings:
  """A quarter of the probe's work: 40 s on two cores for images of 64 pixels."""
  return ProbeSettings(
    widths=(16, 32, 64), stem_stride=max(1, image_size // 16), num_steps=700
  )


def train_measurer(
  images: Sequence[np.ndarray],
  facts: Mapping[str, np.ndarray],
  folder: pathlib.Path,
  *,
  settings: ProbeSettings | None = None,
  progress: types.Progress = types.no_progress,
) -> Measurer:
  """Trains a measurer and saves it, or loads it where the folder holds this very one.

  Args:
    images: n real training images, uint8 [s s 1], all of one size.
    facts: name -> [n], the quantities, nan where unknown.
    folder: receives `measurer.safetensors`.
    settings: of the network and its training; None for `default_settings`.
    progress: told each step.

  Raises:
    errors.InputError: too few images, or of different sizes; a quantity that is the
      same in all of them.
    FloatingPointError: the loss is not finite; nothing was saved.
  """
  if len(images) < MIN_IMAGES:
    raise errors.InputError(f"{len(images)} images to measure by", f"{MIN_IMAGES}")
  size = len(images[0])
  settings = settings or default_settings(size)
  names = tuple(sorted(facts))
  values = np.stack([np.asarray(facts[name], np.float64) for name in names], axis=1)
  if values.shape != (len(images), len(names)):
    raise ValueError(f"facts {values.shape} of {len(images)} images")
  fingerprint = _fingerprint(settings, names, values, images)
  kept = _load(folder / FILE, fingerprint, settings)
  if kept is not None:
    return kept
  mean, scale = np.nanmean(values, axis=0), np.nanstd(values, axis=0)
  if not (scale > 0).all():
    same = [name for name, one in zip(names, scale, strict=True) if not one > 0]
    raise errors.InputError(f"{', '.join(same)} is the same in all training images")
  programs = probe_fit.make_programs(settings, len(names), squared_loss)
  like = jnp.zeros((1, size, size, 1))
  params, _ = probe_fit.fit(
    [images[row] for row in range(len(images))],
    (values - mean) / scale,
    settings,
    lambda _, done, total: progress("measurer", done, total),
    params=programs.init_fn(jax.random.key(settings.seed), like)["params"],
    programs=programs,
    weights=np.ones(len(names), np.float32),
  )
  measurer = Measurer(
    names=names,
    mean=mean,
    scale=scale,
    num_training=len(images),
    image_size=size,
    settings=settings,
    params=params,
  )
  _save(measurer, folder / FILE, fingerprint)
  return measurer


def squared_loss(
  outputs: types.Array, targets: types.Array, weights: types.Array
) -> jax.Array:
  """The loss above; outputs [b k], targets [b k] nan where unknown, weights [k]."""
  known = jnp.isfinite(targets)
  # Not `where` of the square alone: the gradient of what is not taken would be nan.
  difference = outputs - jnp.where(known, targets, outputs)
  return (weights * jnp.square(difference)).sum(axis=-1).mean()


def _fingerprint(
  settings: ProbeSettings,
  names: Sequence[str],
  values: np.ndarray,
  images: Sequence[np.ndarray],
) -> str:
  """Tells inputs apart: settings, all facts, 64 images.

  Raises:
    errors.InputError: images of different sizes.
  """
  digest = hashlib.sha256(f"{FORMAT} {settings!r} {names} {len(images)}".encode())
  digest.update(values.tobytes())
  rows = np.unique(np.linspace(0, len(images) - 1, 64).astype(int))
  sample = [np.asarray(images[int(row)]) for row in rows]
  _check(sample, len(sample[0]))
  digest.update(np.stack(sample).tobytes())
  return digest.hexdigest()[:16]


def _check(images: Sequence[np.ndarray], size: int) -> None:
  for image in images:
    if image.shape != (size, size, 1) or image.dtype != np.uint8:
      raise errors.InputError(
        f"an image {image.dtype} {image.shape}",
        f"uint8 {(size, size, 1)}, as the measurer is trained on",
        "bring all images to one size first",
      )


def _save(measurer: Measurer, path: pathlib.Path, fingerprint: str) -> None:
  """Writes one file, whole or not at all."""
  path.parent.mkdir(parents=True, exist_ok=True)
  described = {
    "fingerprint": fingerprint,
    "names": measurer.names,
    "mean": measurer.mean.tolist(),
    "scale": measurer.scale.tolist(),
    "num_training": measurer.num_training,
    "image_size": measurer.image_size,
  }
  flat = flax.traverse_util.flatten_dict(measurer.params, sep="/")
  data = safetensors.numpy.save(
    {key: np.asarray(flat[key]) for key in sorted(flat)},
    metadata={"measurer": json.dumps(described)},
  )
  partial = path.with_name(path.name + ".partial")
  with artifacts.disk_errors(path):
    partial.write_bytes(data)
    os.replace(partial, path)


def _load(
  path: pathlib.Path, fingerprint: str, settings: ProbeSettings
) -> Measurer | None:
  """The measurer of these inputs, None where the file is absent or of others."""
  if not path.is_file():
    return None
  try:
    with safetensors.safe_open(path, "np") as file:
      described = json.loads((file.metadata() or {}).get("measurer", "{}"))
      flat = {key: jnp.asarray(file.get_tensor(key)) for key in file.keys()}  # noqa: SIM118
  except safetensors.SafetensorError as error:
    raise errors.InputError(
      f"{path} is damaged: {error}", fix=f"remove {path}"
    ) from error
  if described.pop("fingerprint", "") != fingerprint:
    return None
  return Measurer(
    names=tuple(described.pop("names")),
    mean=np.array(described.pop("mean")),
    scale=np.array(described.pop("scale")),
    settings=settings,
    params=flax.traverse_util.unflatten_dict(flat, sep="/"),
    **described,
  )
