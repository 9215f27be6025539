"""How well an autoencoder reconstructs: figures, each with what it was made with.

validation images --encode, decode--> PSNR, SSIM, MS-SSIM of pairs
features of both sets --> rFID, beside the distance of equally many training images
  -> WORKDIR/autoencoder.json, scalars, one line
"""

from collections.abc import Callable
import json
import pathlib
from typing import Any

from absl import logging
import jax
import numpy as np

from cxr_diffusion_jax import artifacts, types
from cxr_diffusion_jax.data import pipeline
from cxr_diffusion_jax.encoders import image_features
from cxr_diffusion_jax.encoders.standin import tree as standin_tree
from cxr_diffusion_jax.evaluation.judges import probe
from cxr_diffusion_jax.evaluation.metrics import diversity, fidelity
from cxr_diffusion_jax.extras.autoencoder import compiled as programs_lib
from cxr_diffusion_jax.extras.autoencoder import evaluation as measure
from cxr_diffusion_jax.extras.autoencoder import settings
from cxr_diffusion_jax.run import dataset as dataset_lib

FILE = "autoencoder.json"

# Validation images that are measured, spread evenly.
MAX_IMAGES = 2048

# Images that features and similarities are made of at once.
BLOCK = 16


def write(
  experiment: settings.AutoencoderExperiment,
  programs: programs_lib.AutoencoderPrograms,
  dataset: dataset_lib.Dataset,
  workdir: pathlib.Path,
  *,
  params: types.Params,
  step: int,
  writer: Any,
  features: image_features.ImageFeatures | None = None,
  probe_wanted: bool = False,
  progress: types.Progress = types.no_progress,
) -> str:
  """Measures, writes WORKDIR/autoencoder.json and scalars, and returns one line.

  Args:
    experiment: of the run.
    programs: of the run.
    dataset: whose validation images are reconstructed.
    workdir: of the run.
    params: averaged parameters.
    step: of them.
    writer: a CLU metric writer.
    features: of rFID; None for a probe's, where it is wanted or there is one already.
    probe_wanted: train a probe where there is none.
    progress: told while a probe is trained.
  """
  source = dataset.source("validation")
  real = _images(source)
  made = measure.reconstruct(experiment, programs, params, real)
  figures: dict[str, Any] = {"num_images": len(real), **similarities(real, made)}
  described = {
    "step": step,
    "split": "validation",
    "data": dataset.kind,
    "fingerprint": dataset.records.fingerprint,
    "factor": experiment.network.factor,
  }
  extract = extractor(dataset, features, probe_wanted, progress)
  if extract is not None:
    name, function = extract
    reference = _images(dataset.source("train"), len(real))
    figures |= {"features": name, **distances(function, real, made, reference)}
  if jax.process_index() == 0:
    text = json.dumps({**described, **figures}, indent=1)
    artifacts.write_text(workdir / FILE, text + "\n")
  scalars = {
    f"reconstruction/{name}": value
    for name, value in figures.items()
    if isinstance(value, float)
  }
  writer.write_scalars(step, scalars)
  return _line(figures, dataset.kind)


def similarities(real: np.ndarray, made: np.ndarray) -> dict[str, float]:
  """Means over pairs of images [n h w 1] in [-1, 1].

  Returns:
    `psnr` in dB, and `ssim` and `ms_ssim` where the images have room for a window.
  """
  kinds = {"psnr": diversity.psnr}
  if min(real.shape[1:3]) >= diversity.WINDOW:
    kinds |= {"ssim": diversity.ssim, "ms_ssim": diversity.ms_ssim}
  sums = dict.fromkeys(kinds, 0.0)
  for first in range(0, len(real), BLOCK):
    pair = [(part[first : first + BLOCK] + 1) / 2 for part in (real, made)]
    for name, function in kinds.items():
      sums[name] += float(function(*pair).sum())
  return {name: total / len(real) for name, total in sums.items()}


def distances(
  function: Callable[[np.ndarray], np.ndarray],
  real: np.ndarray,
  made: np.ndarray,
  reference: np.ndarray,
) -> dict[str, float]:
  """Frechet distances of features.

  Args:
    function: images [b h w 1] in [-1, 1] -> [b d].
    real: [n h w 1].
    made: their reconstructions.
    reference: other real images, as many where there are.

  Returns:
    `rfid` from real to made, and `rfid_floor` from real to reference: what two samples
    of the same images differ by. A reconstruction is of the very same images, so a good
    one stays below.
  """
  sets = [
    np.concatenate(
      [function(part[first : first + BLOCK]) for first in range(0, len(part), BLOCK)]
    )
    for part in (real, made, reference)
  ]
  return {
    "rfid": fidelity.frechet_distance(sets[0], sets[1]),
    "rfid_floor": fidelity.frechet_distance(sets[0], sets[2]),
  }


def _images(source: pipeline.JoinedSource, limit: int = MAX_IMAGES) -> np.ndarray:
  """[n h w 1] in [-1, 1], at most so many, spread evenly over a split."""
  count = min(limit, MAX_IMAGES, len(source))
  rows = np.linspace(0, len(source) - 1, count).astype(int)
  return source.batch(rows)["image"]


def extractor(
  dataset: dataset_lib.Dataset,
  features: image_features.ImageFeatures | None,
  probe_wanted: bool,
  progress: types.Progress,
) -> tuple[str, Callable[[np.ndarray], np.ndarray]] | None:
  """What features are called, and images [b h w 1] in [-1, 1] -> [b d].

  Args:
    dataset: whose probe it may be.
    features: a frozen encoder; None for the probe.
    probe_wanted: train the probe where there is none; without, None is returned.
    progress: told while it is trained.
  """
  if features is not None:
    apply = programs_lib.make_embed(features)
    return f"{features.name}, {features.layer}", lambda image: np.asarray(apply(image))
  folder = dataset.records.folder / "probe"
  if not probe_wanted and not probe.read_description(folder):
    logging.info("no rFID: no frozen encoder, and no probe (--features=probe for one)")
    return None
  if probe_wanted:
    of_split = {
      split: (
        standin_tree.Images(dataset.records, split),
        dataset.records.fields(split)["findings"],
      )
      for split in ("train", "validation")
    }
    judge = probe.train_probe(
      *of_split["train"],
      folder,
      validation=of_split["validation"],
      progress=progress,
    )
  else:
    judge = probe.load_probe(folder)
  return (
    f"probe {judge.fingerprint}, pooled features before its last layer",
    lambda image: np.asarray(judge.features_fn(judge.params, measure.to_bytes(image))),
  )


def _line(figures: dict[str, Any], kind: str) -> str:
  text = f"PSNR {figures['psnr']:.2f} dB"
  if "ms_ssim" in figures:
    text += f", MS-SSIM {figures['ms_ssim']:.4f}"
  if "rfid" in figures:
    text += f", rFID {figures['rfid']:.3f} ({figures['features']};"
    text += f" floor {figures['rfid_floor']:.3f})"
  return f"{text} on {figures['num_images']} validation images ({kind})"
