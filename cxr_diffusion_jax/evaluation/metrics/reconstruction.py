"""The reconstruction error of a run's codec: a limit for everything generated with it.

test images --encode--> latents (of a posterior: the mean) --decode--> images
  -> PSNR, MS-SSIM of each pair, their means

An invertible codec loses nothing; figures of an autoencoder are written to
WORKDIR/reconstruction.json when training begins.
"""

import dataclasses
import math

from etils import epath
import jax
import numpy as np

from cxr_diffusion_jax import artifacts, checked_files
from cxr_diffusion_jax.evaluation.metrics import diversity
from cxr_diffusion_jax.models import codec as codec_lib
from cxr_diffusion_jax.run import dataset as dataset_lib
from cxr_diffusion_jax.sampling import decoding
from cxr_diffusion_jax.training import experiment as experiment_lib

FILE = "reconstruction.json"

# Images that are measured, spread evenly over the split.
_NUM_IMAGES = 256

# Pairs that are compared at once.
_BLOCK = 16


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reconstruction:
  """Similarity of images and their reconstructions."""

  num_images: int
  psnr: float
  ms_ssim: float
  worst: float  # largest difference of any pixel, in grey levels of 255

  @property
  def exact(self) -> bool:
    """Whether every image is reproduced in 8 bits."""
    return self.worst < 0.5

  @property
  def text(self) -> str:
    """For tables: 'exact', or the figures."""
    if self.exact:
      return "exact"
    similarity = "" if math.isnan(self.ms_ssim) else f", MS-SSIM {self.ms_ssim:.4f}"
    return f"{self.psnr:.1f} dB{similarity}"


def measure(
  codec: codec_lib.Codec, mesh: jax.sharding.Mesh, images: np.ndarray
) -> Reconstruction:
  """Encodes and decodes images, and compares them.

  Raises:
    errors.InputError: sides that the codec cannot divide.
  """
  encode = decoding.make_encode(codec, mesh)
  decode = decoding.make_decode(codec, mesh)
  decoded = decode(encode(images.astype(np.float32) / np.float32(127.5) - 1))
  real = images.astype(np.float32) / 255
  decoded = (decoded + 1) / 2
  small = diversity.num_scales(min(images.shape[1:3])) == 0
  figures = []
  for start in range(0, len(real), _BLOCK):
    pair = real[start : start + _BLOCK], decoded[start : start + _BLOCK]
    similarity = np.full(len(pair[0]), np.nan) if small else diversity.ms_ssim(*pair)
    figures.append(np.stack([diversity.psnr(*pair), similarity]))
  psnr, ms_ssim = np.concatenate(figures, axis=1).mean(axis=1)
  return Reconstruction(
    num_images=len(real),
    psnr=float(psnr),
    ms_ssim=float(ms_ssim),
    worst=float(255 * np.abs(decoded - real).max()),
  )


def describe(reconstruction: Reconstruction) -> artifacts.Json:
  """Returns the figures for JSON, None where infinite or undefined."""
  figures = dataclasses.asdict(reconstruction)
  figures = {
    name: value if math.isfinite(value) else None for name, value in figures.items()
  }
  return {"exact": reconstruction.exact, **figures}


def write(
  experiment: experiment_lib.Experiment,
  dataset: dataset_lib.Dataset,
  workdir: artifacts.PathLike,
) -> None:
  """Writes the figures of a run's autoencoder, unless they are there already."""
  if experiment.autoencoder is None:
    return
  encoders = {name: column.encoder for name, column in dataset.card.latents.items()}
  facts = {"autoencoder": encoders, "records": dataset.records.fingerprint}
  path = epath.Path(workdir) / FILE
  if path.exists():
    saved = checked_files.read_json(path)
    if {name: saved.get(name) for name in facts} == facts:
      return
  split = "test" if "test" in dataset.splits else "validation"
  source = dataset.source(split)
  count = min(len(source), _NUM_IMAGES)
  rows = np.linspace(0, len(source) - 1, count).astype(int)
  images = np.stack([source[int(row)]["image"] for row in rows])
  codec = experiment.recipe.make_codec(dataset.card.statistics)
  figures = describe(measure(codec, experiment.mesh, images))
  if jax.process_index() == 0:
    checked_files.write_json(path, {**facts, "split": split, **figures})


def read(workdir: artifacts.PathLike, config: artifacts.JsonMapping) -> str:
  """One line for a report: the loss of a run's codec."""
  path = epath.Path(workdir) / FILE
  if not path.exists():
    exact = config.get("codec", {}).get("name") in ("haar", "pixel")
    return "exact: the codec is invertible" if exact else "not measured"
  saved = checked_files.read_json(path)
  values: artifacts.Json = {
    field.name: math.nan if saved[field.name] is None else saved[field.name]
    for field in dataclasses.fields(Reconstruction)
  }
  figures = Reconstruction(**values)
  return f"{figures.text} on {figures.num_images} {saved['split']} images"
