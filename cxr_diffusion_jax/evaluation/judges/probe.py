"""A classifier of findings, trained on real images to judge generated ones.

training images, findings -> `probe_fit.fit` -> parameters
validation images, findings -> Youden's thresholds
  -> weights.safetensors, then probe.json: without it there is no probe

The same inputs give the same probe on the same kind of machine, and are trained once.
Its scores rank images; as rare findings weigh more in training, they are no
probabilities.
"""

from collections.abc import Callable, Sequence
import dataclasses
import hashlib
import json
import os
import pathlib
import time
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from cxr_diffusion_jax import artifacts, errors, types
from cxr_diffusion_jax.evaluation.judges import adherence, attribution, probe_fit
from cxr_diffusion_jax.evaluation.judges.probe_fit import ProbeSettings

DESCRIPTION = "probe.json"
WEIGHTS = "weights.safetensors"

# Raised when what the same settings mean changes: then older probes are trained again.
FORMAT = 1

# Images that take less than this are read once and kept.
MAX_BYTES_IN_MEMORY = 2**30


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Probe:
  """A trained classifier of k findings.

  Attributes:
    image_size: pixels of a side of the images that it was trained on.
    thresholds: [k] float64, above which a score means that the finding is seen; NaN
      where the validation images have the finding always or never.
    fingerprint: of everything that it was trained with.
    batch_size: images a call.
    params: of the classifier.
    score_fn: (params, uint8 [b s s 1]) -> [b k] in [0, 1], compiled.
    features_fn: (params, uint8 [b s s 1]) -> [b d], what the scores are made of,
      compiled.
    attribution_fn: (params, uint8 [b s s 1], column [b]) -> [b h w], where a score
      finds what it tells of, compiled.
  """

  image_size: int
  thresholds: np.ndarray
  fingerprint: str
  batch_size: int
  params: types.Params
  score_fn: Callable[[types.Params, types.Array], jax.Array]
  features_fn: Callable[[types.Params, types.Array], jax.Array]
  attribution_fn: Callable[[types.Params, types.Array, types.Array], jax.Array]

  def scores(self, images: Sequence[np.ndarray]) -> np.ndarray:
    """Scores images: an array uint8 [n s s 1], or any sequence of uint8 [s s 1].

    Returns:
      [n k] float32 in (0, 1), higher where the finding is seen.

    Raises:
      errors.InputError: images of another size than the probe was trained on.
    """
    made = [np.zeros((0, len(self.thresholds)), np.float32)]
    for first in range(0, len(images), self.batch_size):
      # The last row fills up: one shape, compiled once.
      rows = np.minimum(np.arange(first, first + self.batch_size), len(images) - 1)
      batch = [images[row] for row in rows]
      _check_images(batch, self.image_size)
      made.append(np.asarray(self.score_fn(self.params, np.stack(batch))))
    # Float32's sigmoid is exactly 1 from a logit of 17 on.
    smallest = np.finfo(np.float32).eps
    return np.clip(np.concatenate(made)[: len(images)], smallest, 1 - smallest)


def train_probe(
  images: Sequence[np.ndarray],
  findings: np.ndarray,
  folder: pathlib.Path,
  *,
  validation: tuple[Sequence[np.ndarray], np.ndarray],
  settings: ProbeSettings | None = None,
  progress: types.Progress = types.no_progress,
) -> Probe:
  """Trains a probe and saves it, or loads it where the folder holds this very one.

  Args:
    images: n real training images, `images[i]` uint8 [s s 1], all of one size.
    findings: [n k] 0 or 1.
    folder: receives `weights.safetensors` and `probe.json`.
    validation: images and findings of other patients, for the thresholds.
    settings: of the network and its training; None for those of the images' size.
    progress: told each step, with the loss in its label.

  Returns:
    The probe.

  Raises:
    errors.InputError: no images, numbers of rows that differ, sizes that differ, or a
      probe of these very inputs that is damaged.
    FloatingPointError: the loss is not finite; nothing was saved.
  """
  if settings is None:
    # Without an image any will do: that is refused next.
    settings = probe_fit.default_settings(len(images[0]) if len(images) else 0)
  fingerprint = _fingerprint(
    settings, training=(images, findings), validation=validation
  )
  if read_description(folder).get("fingerprint") == fingerprint:
    return load_probe(folder)
  start = time.monotonic()
  params, losses = probe_fit.fit(_kept(images), findings, settings, progress)
  probe = Probe(
    image_size=len(images[0]),
    thresholds=np.full(findings.shape[1], np.nan),
    fingerprint=fingerprint,
    batch_size=settings.batch_size,
    params=params,
    score_fn=probe_fit.make_score_fn(settings, findings.shape[1]),
    features_fn=probe_fit.make_features_fn(settings, findings.shape[1]),
    attribution_fn=attribution.make_attribution_fn(settings, findings.shape[1]),
  )
  thresholds = adherence.youden_thresholds(probe.scores(validation[0]), validation[1])
  probe = dataclasses.replace(probe, thresholds=thresholds)
  training = {
    "num_images": len(images),
    "num_validation_images": len(validation[0]),
    "seconds": round(time.monotonic() - start, 1),
    "losses": losses[:: max(1, len(losses) // 50)],
  }
  _save(probe, settings, training, folder)
  return probe


def load_probe(folder: pathlib.Path) -> Probe:
  """Reads a probe back.

  Raises:
    errors.InputError: the folder holds no probe, or a damaged one.
  """
  described = read_description(folder)
  if not described:
    raise errors.InputError(f"no {DESCRIPTION} in {folder}", "a probe", "train one")
  if described["format"] != FORMAT:
    raise errors.InputError(
      f"{folder / DESCRIPTION} of format {described['format']}",
      f"{FORMAT}",
      "train it again",
    )
  path = folder / WEIGHTS
  data = path.read_bytes() if path.is_file() else b""
  if hashlib.sha256(data).hexdigest() != described["weights"]:
    raise errors.InputError(
      f"{path} is not what was saved there", fix=f"remove {folder / DESCRIPTION}"
    )
  values = dict(described["settings"], widths=tuple(described["settings"]["widths"]))
  settings = ProbeSettings(**values)
  flat = {
    key: jnp.asarray(value) for key, value in safetensors.numpy.load(data).items()
  }
  thresholds = np.array(described["thresholds"], np.float64)  # None becomes NaN.
  return Probe(
    image_size=described["image_size"],
    thresholds=thresholds,
    fingerprint=described["fingerprint"],
    batch_size=settings.batch_size,
    params=flax.traverse_util.unflatten_dict(flat, sep="/"),
    score_fn=probe_fit.make_score_fn(settings, len(thresholds)),
    features_fn=probe_fit.make_features_fn(settings, len(thresholds)),
    attribution_fn=attribution.make_attribution_fn(settings, len(thresholds)),
  )


def read_description(folder: pathlib.Path) -> dict[str, Any]:
  """Returns what `probe.json` of a folder says, {} where there is none."""
  path = folder / DESCRIPTION
  return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _save(
  probe: Probe,
  settings: ProbeSettings,
  training: dict[str, Any],
  folder: pathlib.Path,
) -> None:
  """Writes the weights, then the description that makes them a probe."""
  folder.mkdir(parents=True, exist_ok=True)
  # Whatever stops this from here on leaves a folder without a probe.
  (folder / DESCRIPTION).unlink(missing_ok=True)
  flat = flax.traverse_util.flatten_dict(probe.params, sep="/")
  data = safetensors.numpy.save({key: np.asarray(flat[key]) for key in sorted(flat)})
  part = folder / f"{WEIGHTS}.part"
  part.write_bytes(data)
  os.replace(part, folder / WEIGHTS)
  description = {
    "format": FORMAT,
    "fingerprint": probe.fingerprint,
    "image_size": probe.image_size,
    "settings": dataclasses.asdict(settings),
    "thresholds": [
      value if np.isfinite(value) else None for value in probe.thresholds.tolist()
    ],
    "weights": hashlib.sha256(data).hexdigest(),
    "training": training,
  }
  artifacts.write_text(folder / DESCRIPTION, json.dumps(description, indent=2))


def _fingerprint(
  settings: ProbeSettings, **pairs: tuple[Sequence[np.ndarray], np.ndarray]
) -> str:
  """Checks the inputs and tells them apart: settings, findings, 64 images of each.

  Raises:
    errors.InputError: no images, rows or sizes that differ, images that are not grey.
  """
  digest = hashlib.sha256(f"{FORMAT} {settings!r}".encode())
  size, columns = 0, 0
  for name, (images, findings) in pairs.items():
    if len(images) != len(findings) or not len(images):
      raise errors.InputError(
        f"{len(images)} {name} images, {len(findings)} rows of findings",
        "images, each with one row",
      )
    size, columns = size or len(images[0]), columns or findings.shape[1]
    if findings.shape[1:] != (columns,) or not np.isin(findings, (0, 1)).all():
      raise ValueError(
        f"{name} findings {findings.shape}, not [n {columns}] of 0 and 1"
      )
    rows = np.unique(np.linspace(0, len(images) - 1, 64).astype(int))
    sample = [np.asarray(images[row]) for row in rows]
    _check_images(sample, size)
    digest.update(f"{name} {len(images)} {size} {columns}".encode())
    digest.update(np.ascontiguousarray(findings, np.uint8).tobytes())
    digest.update(np.stack(sample).tobytes())
  return digest.hexdigest()[:16]


def _check_images(images: Sequence[np.ndarray], size: int) -> None:
  for image in images:
    if image.shape != (size, size, 1) or image.dtype != np.uint8:
      raise errors.InputError(
        f"an image {image.dtype} {image.shape}",
        f"uint8 {(size, size, 1)}, as the probe is trained on",
        "bring all images to one size first",
      )


def _kept(images: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
  """Reads images into memory, where they fit: each is used in many steps."""
  fits = len(images) * images[0].nbytes <= MAX_BYTES_IN_MEMORY
  if fits and not isinstance(images, np.ndarray):
    return np.stack([images[row] for row in range(len(images))])
  return images
