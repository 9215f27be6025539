"""A classifier of findings, trained on real images to judge generated ones.

training images, findings -> `probe_fit.fit`, to a plateau of the AUROC of validation
  images -> parameters
validation images, findings -> thresholds (Youden 1950, "Index for rating diagnostic
  tests")
  -> weights.safetensors, then probe.json: without it there is no probe

The same inputs give the same probe on the same kind of machine, and are trained once.
Scores rank images; rare findings weigh more in training, so they are no probabilities.
"""

import dataclasses
import hashlib
import time

from etils import epath
import jax
import numpy as np

from cxr_diffusion_jax import artifacts, checked_files, errors, types
from cxr_diffusion_jax.encoders import weights
from cxr_diffusion_jax.encoders.probes import attribution, probe_fit, probe_settings
from cxr_diffusion_jax.encoders.probes.probe_settings import ProbeSettings
from cxr_diffusion_jax.encoders.unfinished import Unfinished
from cxr_diffusion_jax.interop import names
from cxr_diffusion_jax.parallel import batches

DESCRIPTION = "probe.json"
WEIGHTS = "weights.safetensors"
UNFINISHED = "unfinished.npz"

# Increased when the same settings give a different probe: saved ones are retrained.
FORMAT = 2

# Of a stage, and stages; a damaged number would build a network for hours.
_MOST_BLOCKS = 50


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Probe:
  """A trained classifier of k findings.

  Attributes:
    thresholds: [k] float64, above which a score means that the finding is seen; NaN
      where the validation images have the finding always or never, as far as it is
      known, or where it is unknown in all training images.
    score_fn: (params, uint8 [b s s 1]) -> [b k] in [0, 1], compiled.
    features_fn: (params, uint8 [b s s 1]) -> [b d] before the last layer, compiled.
    attribution_fn: (params, uint8 [b s s 1], column [b]) -> [b h w], where a score
      comes from, compiled.
  """

  image_size: int
  thresholds: np.ndarray
  fingerprint: str
  batch_size: int
  params: types.Params
  score_fn: probe_fit.ImagesFn
  features_fn: probe_fit.ImagesFn
  attribution_fn: attribution.AttributionFn

  def scores(self, images: types.Arrays) -> np.ndarray:
    """Scores n images, uint8 [s s 1]: [n k] float32 in (0, 1), higher where seen."""
    if not len(images):
      return np.zeros((0, len(self.thresholds)), np.float32)

    def scores_of(rows: np.ndarray) -> jax.Array:
      batch = [images[int(row)] for row in rows]
      probe_fit.check_images(batch, self.image_size)
      return self.score_fn(self.params, np.stack(batch))

    # Float32's sigmoid is exactly 1 from a logit of 17 on.
    smallest = np.finfo(np.float32).eps
    scores = batches.in_batches(scores_of, len(images), self.batch_size)
    return np.clip(scores, smallest, 1 - smallest)


def train_probe(
  images: types.Arrays,
  findings: np.ndarray,
  folder: epath.PathLike,
  *,
  validation: tuple[types.Arrays, np.ndarray],
  settings: ProbeSettings | None = None,
  changes: artifacts.JsonMapping | None = None,
  progress: types.Progress = types.no_progress,
) -> Probe:
  """Trains and saves a probe, or loads it if the folder already holds it.

  An interrupted training is resumed.

  Args:
    images: n real training images, `images[i]` uint8 [s s 1], all of one size.
    findings: [n k] 0 or 1; nan where unknown, which is left out of the loss.
    validation: images and findings of other patients, for the plateau and thresholds.
    settings: None for those of a saved probe of these images, on any machine, or
      `default_settings`.
    changes: to `default_settings`, where there are no settings.

  Raises:
    errors.InputError: no images, numbers of rows or sizes that differ, or a damaged
      saved probe of the same inputs.
  """
  folder = epath.Path(folder)
  data = {"training": (images, findings), "validation": validation}
  if settings is None and changes:
    # Without an image, `_fingerprint` refuses.
    size = len(images[0]) if len(images) else 0
    settings = probe_settings.default_settings(size, len(images), **changes)
  for known in [settings] if settings else _saved_settings(folder):
    if read_description(folder).get("fingerprint") == _fingerprint(known, **data):
      return load_probe(folder)
  if settings is None:
    size = len(images[0]) if len(images) else 0
    settings = probe_settings.default_settings(size, len(images))
  mark = _fingerprint(settings, **data)
  start = time.monotonic()
  unfinished = Unfinished(path=folder / UNFINISHED, mark=mark)
  fitted = probe_fit.fit(
    probe_fit.in_memory(images),
    findings,
    settings,
    validation=validation,
    unfinished=unfinished,
    progress=progress,
  )
  params = fitted.params
  probe = _build(settings, params, np.full(findings.shape[1], np.nan), len(images[0]))
  thresholds = youden_thresholds(probe.scores(validation[0]), validation[1])
  thresholds[~np.isfinite(findings).any(axis=0)] = np.nan
  probe = dataclasses.replace(probe, thresholds=thresholds, fingerprint=mark)
  losses = [terms["loss"] for terms in fitted.losses]
  training = {
    "num_images": len(images),
    "num_validation_images": len(validation[0]),
    "seconds": round(time.monotonic() - start, 1),
    "num_steps": len(fitted.losses),
    "best_step": fitted.best_step,
    "validation_auroc": {step: auroc for step, (auroc, _) in fitted.figures},
    "losses": losses[:: max(1, len(losses) // 50)],
  }
  _save(probe, settings, training, folder)
  unfinished.remove()
  return probe


def load_probe(folder: epath.PathLike) -> Probe:
  """Reads a saved probe; raises InputError if the folder has none or a damaged one."""
  folder = epath.Path(folder)
  description = read_description(folder)
  if not description:
    raise errors.InputError(f"no {DESCRIPTION} in {folder}", "a probe", "train one")
  if description.get("format") != FORMAT:
    raise errors.InputError(
      f"{folder / DESCRIPTION} of format {description.get('format')}",
      f"{FORMAT}",
      "train it again",
    )
  path = folder / WEIGHTS
  data = path.read_bytes() if path.exists() else b""
  if hashlib.sha256(data).hexdigest() != description.get("weights"):
    raise errors.InputError(
      f"{path} is not what was saved there", fix=f"remove {folder / DESCRIPTION}"
    )
  (settings,) = _saved_settings(folder)
  fix = f"remove {folder / DESCRIPTION}"
  with weights.described(folder, "a probe", fix):
    params = probe_fit.from_bytes(data)
    thresholds = np.array(description["thresholds"], np.float64)  # None becomes NaN.
    size, fingerprint = description["image_size"], description["fingerprint"]
    image = jax.ShapeDtypeStruct((1, size, size, 1), np.float32)
    init = probe_fit.make_classifier(settings, len(thresholds)).init
    shapes = jax.eval_shape(init, jax.random.key(0), image)["params"]
    names.check(names.shapes_by_name(params), shapes, str(path), fix)
    probe = _build(settings, params, thresholds, size)
  return dataclasses.replace(probe, fingerprint=fingerprint)


def read_description(folder: epath.PathLike) -> artifacts.Json:
  """Returns the content of `probe.json` in a folder, {} where there is none."""
  path = epath.Path(folder) / DESCRIPTION
  return checked_files.read_json(path) if path.exists() else {}


def _saved_settings(folder: epath.Path) -> list[ProbeSettings]:
  """The settings of a saved probe; none where there is no probe of this format."""
  description = read_description(folder)
  if description.get("format") != FORMAT:
    return []
  try:
    values = description["settings"]
    settings = ProbeSettings(**{**values, "widths": tuple(values["widths"])})
    if settings.blocks > _MOST_BLOCKS or len(settings.widths) > _MOST_BLOCKS:
      raise ValueError("a network of more layers than any probe")
    return [settings]
  except (KeyError, TypeError, ValueError) as error:
    raise checked_files.damaged(folder / DESCRIPTION, error) from error


def youden_thresholds(scores: np.ndarray, positive: np.ndarray) -> np.ndarray:
  """Thresholds [k] float64 that maximise sensitivity + specificity - 1.

  Each lies halfway between two scores; of equally good ones it is the lowest, and where
  none is better than chance it is the highest score. NaN for findings without positives
  or without negatives. `positive` is nan where unknown, which is left out.
  """
  scores, positive = np.asarray(scores, np.float64), np.asarray(positive)
  thresholds = np.full(scores.shape[1], np.nan)
  for k in range(scores.shape[1]):
    has, lacks = positive[:, k] > 0.5, positive[:, k] <= 0.5
    if not has.any() or not lacks.any():
      continue
    cuts = np.unique(scores[has | lacks, k])
    cuts[:-1] += np.diff(cuts) / 2
    with_it = np.sort(scores[has, k])
    without = np.sort(scores[lacks, k])
    missed = np.searchsorted(with_it, cuts, side="right") / len(with_it)
    passed = np.searchsorted(without, cuts, side="right") / len(without)
    gain = passed - missed
    best = np.argmax(gain)
    thresholds[k] = cuts[best] if gain[best] > 0 else cuts[-1]
  return thresholds


def _build(
  settings: ProbeSettings, params: types.Params, thresholds: np.ndarray, size: int
) -> Probe:
  k = len(thresholds)
  return Probe(
    image_size=size,
    thresholds=thresholds,
    fingerprint="",
    batch_size=settings.batch_size,
    params=params,
    score_fn=probe_fit.make_score_fn(settings, k),
    features_fn=probe_fit.make_features_fn(settings, k),
    attribution_fn=attribution.make_attribution_fn(settings, k),
  )


def _save(
  probe: Probe, settings: ProbeSettings, training: artifacts.Json, folder: epath.Path
) -> None:
  """Writes the weights, then the description that makes them a probe."""
  # An interruption from here on leaves a folder without a probe.
  (folder / DESCRIPTION).unlink(missing_ok=True)
  data = probe_fit.to_bytes(probe.params)
  artifacts.write_bytes(folder / WEIGHTS, data)
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
  checked_files.write_json(folder / DESCRIPTION, description)


def _fingerprint(
  settings: ProbeSettings, **pairs: tuple[types.Arrays, np.ndarray]
) -> str:
  """Checks the inputs and identifies them: settings, findings, 64 images of each."""
  digest = hashlib.sha256(f"{FORMAT} {settings!r}".encode())
  size, columns = 0, 0
  for name, (images, findings) in pairs.items():
    if len(images) != len(findings) or not len(images):
      raise errors.InputError(
        f"{len(images)} {name} images, {len(findings)} rows of findings",
        "images, each with one row",
      )
    size, columns = size or len(images[0]), columns or findings.shape[1]
    valid = np.isin(findings, (0, 1)) | np.isnan(findings)
    if findings.shape[1:] != (columns,) or not valid.all():
      raise ValueError(
        f"{name} findings {findings.shape}, not [n {columns}] of 0, 1 and nan"
      )
    sample = probe_fit.sample_images(images, size)
    digest.update(f"{name} {len(images)} {size} {columns}".encode())
    codes = np.nan_to_num(findings, nan=2)
    digest.update(np.ascontiguousarray(codes, np.uint8).tobytes())
    digest.update(sample.tobytes())
  return digest.hexdigest()[:16]
