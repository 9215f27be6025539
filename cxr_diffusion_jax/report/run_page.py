"""The report of one run: its settings, losses, samples and generated images.

WORKDIR/{config,dataset}.json, TensorBoard events, samples/, generated/
  -> report.html (one file, opens from disk) and report.png (the same pictures)

The folder of a diffusion run or of an autoencoder's.
"""

from collections.abc import Mapping
import io

from etils import epath
import matplotlib.figure
import numpy as np
from PIL import Image

from cxr_diffusion_jax import artifacts, errors, pictures
from cxr_diffusion_jax.evaluation.metrics import reconstruction
from cxr_diffusion_jax.report import templates
from cxr_diffusion_jax.run import card as card_lib
from cxr_diffusion_jax.run import compatibility, loss_curves
from cxr_diffusion_jax.sampling import files as sample_files


def write(workdir: artifacts.PathLike) -> epath.Path:
  """Writes report.html and report.png of a run's folder; returns the page's path.

  Raises:
    errors.InputError: the folder holds no run, or one without samples.
  """
  workdir = epath.Path(workdir)
  config, card = card_lib.read(workdir)
  steps = sorted((workdir / "samples").glob("step_*.png"))
  if not steps:
    raise errors.InputError(f"no pictures in {workdir}/samples", fix="train the run")
  shown = sorted({steps[0], steps[len(steps) // 4], steps[-1]})
  named = [("Loss", loss_picture(loss_curves.read(workdir)))]
  named += [(path.stem.replace("_", " "), _open(path)) for path in shown]
  summary = {
    "images": card.kind,
    "training images": f"{card.num_rows['train']:,}",
    **_codec(workdir, config),
    **{f"column {name}": column.encoder for name, column in card.columns.items()},
  }
  generated = sample_files.newest(workdir)
  if generated is not None:
    named.append(("Condition and generated", _open(generated / sample_files.PAIRS)))
    summary |= _recognition(generated)
  pictures.save(_stack([picture for _, picture in named]), workdir / "report.png")
  page = workdir / "report.html"
  text = templates.render(
    "run.html",
    title=workdir.name,
    summary=summary,
    pictures=named,
    config=compatibility.flatten(config),
  )
  artifacts.write_text(page, text)
  return page


def loss_picture(curves: loss_curves.Curves) -> Image.Image:
  """Draws the losses of a run over its steps, on a logarithmic scale."""
  figure = matplotlib.figure.Figure(figsize=(8, 3.2), dpi=110, layout="constrained")
  axes = figure.add_subplot()
  for tag, (steps, values) in curves.items():
    axes.plot(steps, values, label=tag, marker="." if "validation" in tag else None)
  axes.set_xlabel("step")
  axes.set_ylabel("loss")
  axes.set_yscale("log")
  if curves:
    axes.legend(fontsize="small")
  buffer = io.BytesIO()
  figure.savefig(buffer, format="png")
  return Image.open(buffer)


def recognition_rate(
  images: np.ndarray, references: np.ndarray, own: np.ndarray
) -> float:
  """Returns the share of images [n h w] most similar to their own reference.

  Similarity is the correlation of pixels with the references [m h w] of the conditions,
  of which `own` [n] is the index of the right one. Chance is 1 / m.
  """

  def normal(stack: np.ndarray) -> np.ndarray:
    flat = stack.reshape(len(stack), -1).astype(np.float64)
    flat -= flat.mean(axis=1, keepdims=True)
    return flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-12)

  similarity = normal(images) @ normal(references).T
  return float(np.mean(similarity.argmax(axis=1) == own))


def _codec(workdir: epath.Path, config: Mapping[str, object]) -> dict[str, str]:
  """What is lost on the way through the codec, or through the autoencoder itself."""
  file = workdir / "autoencoder.json"
  if not file.exists():
    return {"codec alone": reconstruction.read(workdir, config)}
  figures = {
    name: f"{value:.4g}" if isinstance(value, float) else str(value)
    for name, value in artifacts.read_json(file).items()
  }
  return {f"reconstruction: {name}": text for name, text in figures.items()}


def _recognition(generated: epath.Path) -> dict[str, str]:
  entries = artifacts.read_json(generated / "samples.json")["samples"]
  if not all("reference_file" in entry for entry in entries):
    return {}
  files = sorted({entry["reference_file"] for entry in entries})
  rate = recognition_rate(
    np.stack([np.asarray(_open(generated / entry["file"])) for entry in entries]),
    np.stack([np.asarray(_open(generated / name)) for name in files]),
    np.array([files.index(entry["reference_file"]) for entry in entries]),
  )
  return {
    "own condition recognised": (
      f"{rate:.0%} of {len(entries)} images by pixel correlation among {len(files)}"
      f" conditions (chance {1 / len(files):.0%})"
    )
  }


def _open(path: epath.Path) -> Image.Image:
  return Image.open(io.BytesIO(path.read_bytes()))


def _stack(images: list[Image.Image]) -> Image.Image:
  width = max(image.width for image in images)
  height = sum(image.height + pictures.MARGIN for image in images)
  picture = Image.new("RGB", (width, height), "white")
  y = 0
  for image in images:
    picture.paste(image.convert("RGB"), (0, y))
    y += image.height + pictures.MARGIN
  return picture
