"""A network that measures anatomy, trained on phantoms with known measures.

training images, facts --`fit.fit`, squared error--> anatomy_regressor.safetensors
image -> features before the last layer -> linear -> quantities in their own units

  loss = mean over images of sum over known quantities of (network - z)^2,
         z = (quantity - mean) / standard deviation, both over the training images

The same inputs give the same regressor on the same kind of machine, trained once. Its
error on real images is reported beside all that it measures of generated ones.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import functools
import hashlib
import json

from etils import epath
import jax
import jax.numpy as jnp
import numpy as np
import safetensors

from cxr_diffusion_jax import artifacts, disk, errors, types
from cxr_diffusion_jax.encoders.probes import probe_fit, probe_settings
from cxr_diffusion_jax.encoders.probes.probe_settings import ProbeSettings
from cxr_diffusion_jax.encoders.unfinished import Unfinished
from cxr_diffusion_jax.parallel import batches

FILE = "anatomy_regressor.safetensors"
UNFINISHED = "anatomy_regressor.unfinished.npz"

# Increased when the same settings give a different network: old ones are retrained.
FORMAT = 2

MIN_IMAGES = 32


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class AnatomyRegressor:
  """A trained network."""

  names: tuple[str, ...]  # of the k quantities
  mean: np.ndarray  # [k] float64, over the training images
  scale: np.ndarray  # [k] float64, the standard deviation there
  num_training: int
  image_size: int
  settings: ProbeSettings
  params: types.Params

  def quantities(self, images: types.Arrays) -> dict[str, np.ndarray]:
    """Measures n images, uint8 [s s 1] each: name -> [n] float64.

    Raises InputError for images of another size than it was trained on.
    """
    head = self.params["head"]

    def features_of(rows: np.ndarray) -> types.Array:
      batch = [images[int(row)] for row in rows]
      probe_fit.check_images(batch, self.image_size)
      return self._features_fn(self.params, np.stack(batch))

    features = np.zeros((0, head["kernel"].shape[0]))
    if len(images):
      features = batches.in_batches(features_of, len(images), self.settings.batch_size)
    standard = features @ np.asarray(head["kernel"], np.float64) + head["bias"]
    values = np.asarray(standard) * self.scale + self.mean
    return dict(zip(self.names, values.T, strict=True))

  @functools.cached_property
  def _features_fn(self) -> probe_fit.ImagesFn:
    return probe_fit.make_features_fn(self.settings, len(self.names))


def default_settings(image_size: int) -> ProbeSettings:
  """A quarter of the probe's work: 40 s on two cores for images of 64 pixels."""
  return ProbeSettings(
    widths=(16, 32, 64),
    stem_stride=max(1, min(image_size, probe_settings.MAX_SIDE) // 16),
    num_steps=700,
    patience=0,
  )


def train(
  images: types.Arrays,
  facts: Mapping[str, np.ndarray],
  folder: epath.PathLike,
  *,
  settings: ProbeSettings | None = None,
  progress: types.Progress = types.no_progress,
) -> AnatomyRegressor:
  """Trains and saves a regressor, or loads it if the folder already holds it.

  `facts` are the quantities, name -> [n], nan where unknown.

  Raises:
    errors.InputError: too few images, or of different sizes; a quantity that is the
      same in all of them.
  """
  if len(images) < MIN_IMAGES:
    raise errors.InputError(
      f"{len(images)} images to train the anatomy regressor", f"{MIN_IMAGES} or more"
    )
  size = len(images[0])
  settings = settings or default_settings(size)
  names = tuple(sorted(facts))
  values = np.stack([np.asarray(facts[name], np.float64) for name in names], axis=1)
  if values.shape != (len(images), len(names)):
    raise ValueError(f"facts {values.shape} of {len(images)} images")
  path = epath.Path(folder) / FILE
  mark = fingerprint(settings, names, values, images)
  saved = _load(path, mark, settings)
  if saved is not None:
    return saved
  mean, scale = np.nanmean(values, axis=0), np.nanstd(values, axis=0)
  if not (scale > 0).all():
    same = [name for name, one in zip(names, scale, strict=True) if not one > 0]
    raise errors.InputError(f"{', '.join(same)} is the same in all training images")
  program = probe_fit.compile_step(settings, len(names), squared_loss)
  params = program.init_fn(jax.random.key(settings.seed), jnp.zeros((1, size, size, 1)))
  unfinished = Unfinished(path=path.with_name(UNFINISHED), mark=mark)
  fitted = probe_fit.fit(
    probe_fit.in_memory(images),
    (values - mean) / scale,
    settings,
    name="anatomy regressor",
    params=params["params"],
    program=program,
    weights=np.ones(len(names), np.float32),
    unfinished=unfinished,
    progress=progress,
  )
  regressor = AnatomyRegressor(
    names=names,
    mean=mean,
    scale=scale,
    num_training=len(images),
    image_size=size,
    settings=settings,
    params=fitted.params,
  )
  _save(regressor, path, mark)
  unfinished.remove()
  return regressor


def squared_loss(
  outputs: types.Array, targets: types.Array, weights: types.Array
) -> jax.Array:
  """The loss above; outputs [b k], targets [b k] nan where unknown, weights [k]."""
  known = jnp.isfinite(targets)
  # Not `where` of the square alone: the gradient of the other branch would be nan.
  difference = outputs - jnp.where(known, targets, outputs)
  return (weights * jnp.square(difference)).sum(axis=-1).mean()


def fingerprint(
  settings: ProbeSettings,
  names: Sequence[str],
  values: np.ndarray,
  images: types.Arrays,
) -> str:
  """Identifies the inputs: settings, all facts, 64 images."""
  digest = hashlib.sha256(f"{FORMAT} {settings!r} {names} {len(images)}".encode())
  digest.update(values.tobytes())
  sample = probe_fit.sample_images(images, len(images[0]))
  digest.update(sample.tobytes())
  return digest.hexdigest()[:16]


def _save(regressor: AnatomyRegressor, path: epath.Path, mark: str) -> None:
  description = {
    "fingerprint": mark,
    "names": regressor.names,
    "mean": regressor.mean.tolist(),
    "scale": regressor.scale.tolist(),
    "num_training": regressor.num_training,
    "image_size": regressor.image_size,
  }
  description["sha256"] = _digest(regressor.params, json.dumps(description))
  # One entry: safetensors writes several in any order, and equal files are to be equal.
  metadata = {"regressor": json.dumps(description)}
  data = probe_fit.to_bytes(regressor.params, metadata=metadata)
  with disk.reporting(path):
    artifacts.write_bytes(path, data)


def _digest(params: types.Params, description: str) -> str:
  """Identifies all that a file holds."""
  content = probe_fit.to_bytes(params) + description.encode()
  return hashlib.sha256(content).hexdigest()


def _load(
  path: epath.Path, mark: str, settings: ProbeSettings
) -> AnatomyRegressor | None:
  """The regressor of these inputs; None where the file is absent or of other inputs."""
  if not path.exists():
    return None
  data = path.read_bytes()
  try:
    params = probe_fit.from_bytes(data)
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    description = dict(
      json.loads(header.get("__metadata__", {}).get("regressor", "{}"))
    )
  except (safetensors.SafetensorError, ValueError, TypeError) as error:
    raise errors.InputError(
      f"{path} is damaged: {error}", fix=f"remove {path}"
    ) from error
  if description.pop("sha256", "") != _digest(params, json.dumps(description)):
    # Damaged, or of an earlier version without a digest.
    return None
  if description.pop("fingerprint", "") != mark:
    return None
  return AnatomyRegressor(
    names=tuple(description.pop("names")),
    mean=np.array(description.pop("mean")),
    scale=np.array(description.pop("scale")),
    settings=settings,
    params=params,
    **description,
  )
