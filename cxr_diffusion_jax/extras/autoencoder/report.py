"""The quality of an autoencoder's reconstructions.

validation images --encode, decode--> PSNR, SSIM, MS-SSIM of pairs
features of both sets --> rFID, and its floor: the distance to as many training images
"""

from collections.abc import Callable

from absl import logging
import jax
import numpy as np

from cxr_diffusion_jax import artifacts, types
from cxr_diffusion_jax.data import pipeline
from cxr_diffusion_jax.data.image_sets import image_set
from cxr_diffusion_jax.encoders import image_features
from cxr_diffusion_jax.encoders.probes import probe
from cxr_diffusion_jax.evaluation.metrics import diversity, frechet
from cxr_diffusion_jax.extras.autoencoder import trainer as trainer_lib
from cxr_diffusion_jax.parallel import batches
from cxr_diffusion_jax.run import dataset as dataset_lib
from cxr_diffusion_jax.sampling import generate

FILE = "autoencoder.json"

# Validation images to measure, evenly spread over the split.
MAX_IMAGES = 2048

# Images per batch of features and similarities.
BLOCK = 16


def write(
  trainer: trainer_lib.AutoencoderTrainer,
  *,
  params: types.Params,
  step: int,
  write_scalars: Callable[[int, dict[str, float]], None],
  features: image_features.ImageFeatures | None = None,
  train_probe: bool = False,
  progress: types.Progress = types.no_progress,
) -> str:
  """Measures, writes WORKDIR/autoencoder.json and scalars, and returns one line.

  Args:
    params: averaged parameters.
    features: for rFID; None for those of a probe, if there is one.
    train_probe: train a probe if there is none.
  """
  dataset = trainer.dataset
  real = _images(dataset.source("validation"))
  reconstructions = trainer.reconstruct(params, real)
  figures: artifacts.Json = {
    "num_images": len(real),
    **similarities(real, reconstructions),
  }
  extract = extractor(dataset, features, train_probe, progress)
  if extract is not None:
    name, features_fn = extract
    reference = _images(dataset.source("train"), len(real))
    figures["features"] = name
    figures |= distances(features_fn, real, reconstructions, reference)
  if jax.process_index() == 0:
    described = {
      "step": step,
      "split": "validation",
      "data": dataset.kind,
      "fingerprint": dataset.records.fingerprint,
      "factor": trainer.experiment.network.factor,
    }
    artifacts.write_json(trainer.workdir / FILE, {**described, **figures})
  scalars = {
    f"reconstruction/{name}": value
    for name, value in figures.items()
    if isinstance(value, float)
  }
  write_scalars(step, scalars)
  return _line(figures, dataset.kind)


def similarities(real: np.ndarray, reconstructions: np.ndarray) -> dict[str, float]:
  """Means over pairs of images [n h w 1] in [-1, 1].

  Returns:
    `psnr` in dB, and `ssim` and `ms_ssim` if their window fits the images.
  """
  kinds = {"psnr": diversity.psnr}
  if min(real.shape[1:3]) >= diversity.WINDOW:
    kinds |= {"ssim": diversity.ssim, "ms_ssim": diversity.ms_ssim}
  sums = dict.fromkeys(kinds, 0.0)
  for first in range(0, len(real), BLOCK):
    pair = [(part[first : first + BLOCK] + 1) / 2 for part in (real, reconstructions)]
    for name, function in kinds.items():
      sums[name] += float(function(*pair).sum())
  return {name: total / len(real) for name, total in sums.items()}


def distances(
  features_fn: Callable[[np.ndarray], np.ndarray],
  real: np.ndarray,
  reconstructions: np.ndarray,
  reference: np.ndarray,
) -> dict[str, float]:
  """Frechet distances of features.

  Args:
    features_fn: images [b h w 1] in [-1, 1] -> [b d].
    real: [n h w 1], as are the others.
    reference: other real images, preferably as many.

  Returns:
    `rfid` from real images to reconstructions, and `rfid_floor` to the reference:
    the distance of two samples of the data. Good reconstructions stay below it.
  """
  own, *others = (
    batches.in_batches(
      lambda rows, part=part: features_fn(part[rows]), len(part), BLOCK
    )
    for part in (real, reconstructions, reference)
  )
  distances = (frechet.frechet_distance(own, other) for other in others)
  return dict(zip(("rfid", "rfid_floor"), distances, strict=True))


def _images(source: pipeline.JoinedSource, limit: int = MAX_IMAGES) -> np.ndarray:
  """Images [n h w 1] in [-1, 1], evenly spread over a split."""
  count = min(limit, MAX_IMAGES, len(source))
  rows = np.linspace(0, len(source) - 1, count).astype(int).tolist()
  return source.batch(rows)["image"]


def extractor(
  dataset: dataset_lib.Dataset,
  features: image_features.ImageFeatures | None,
  train_probe: bool,
  progress: types.Progress,
) -> tuple[str, Callable[[np.ndarray], np.ndarray]] | None:
  """Returns a name of features, and (images [b h w 1] in [-1, 1]) -> [b d].

  Args:
    dataset: whose probe is used without an encoder; None is returned without a probe.
    features: a frozen encoder; None for the probe.
  """
  if features is not None:
    embed = jax.jit(lambda params, image: features.apply_fn(params, image)[1])
    return (
      f"{features.name}, {features.layer}",
      lambda image: np.asarray(embed(features.params, image)),
    )
  records, folder = dataset.records, dataset.records.folder / "probe"
  if train_probe:
    train, validation = (
      (image_set.record_images(records, split), records.fields(split)["findings"])
      for split in ("train", "validation")
    )
    judge = probe.train_probe(*train, folder, validation=validation, progress=progress)
  elif probe.read_description(folder):
    judge = probe.load_probe(folder)
  else:
    logging.info("no rFID: no frozen encoder, and no probe (--features=probe for one)")
    return None
  return (
    f"probe {judge.fingerprint}, pooled features before its last layer",
    lambda image: np.asarray(judge.features_fn(judge.params, generate.to_uint8(image))),
  )


def _line(figures: artifacts.Json, kind: str) -> str:
  text = f"PSNR {figures['psnr']:.2f} dB"
  if "ms_ssim" in figures:
    text += f", MS-SSIM {figures['ms_ssim']:.4f}"
  if "rfid" in figures:
    text += f", rFID {figures['rfid']:.3f} ({figures['features']};"
    text += f" floor {figures['rfid_floor']:.3f})"
  return f"{text} on {figures['num_images']} validation images ({kind})"
