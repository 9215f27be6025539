"""Trains the stand-in CLIP on a tree's own training images and prompts.

  prompts -> tokenizer; images, prompts, findings -> steps of Adam on `standin.loss`
  -> folder as `save_pretrained` writes it, with `standin.json`

With it, every path runs where the published encoders are absent; what it made says so.
"""

from collections.abc import Sequence
import dataclasses
import hashlib
import json
import pathlib
import shutil
import time

import jax.numpy as jnp
import numpy as np
import optax

from cxr_diffusion_jax import (
  artifacts,
  checked_files,
  checksums,
  disk,
  errors,
  staging,
  types,
)
from cxr_diffusion_jax.data.image_sets import image_set
from cxr_diffusion_jax.data.records import records as records_lib
from cxr_diffusion_jax.data.settings import DataSettings
from cxr_diffusion_jax.encoders import encoding, fitting
from cxr_diffusion_jax.encoders.clip import inputs as clip_inputs
from cxr_diffusion_jax.encoders.clip import model as clip_model
from cxr_diffusion_jax.encoders.clip import small as clip_small
from cxr_diffusion_jax.encoders.standin import loss as standin_loss
from cxr_diffusion_jax.encoders.unfinished import Unfinished

MARKER = "standin.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainSettings:
  """How a stand-in CLIP is trained.

  Attributes:
    sizes: of the model.
    num_steps: updates.
    batch_size: pairs in an update.
    learning_rate: at its peak, after a tenth of the steps.
    seed: of parameters, order and augmentation.
  """

  sizes: clip_small.SmallClip = dataclasses.field(default_factory=clip_small.SmallClip)
  num_steps: int = 800
  batch_size: int = 32
  learning_rate: float = 1e-3
  seed: int = 0


def train_clip(
  settings: DataSettings,
  records: records_lib.Records,
  progress: types.Progress = types.no_progress,
) -> None:
  """Trains a CLIP on the training split alone, unless its folder has it already."""
  train_standin(
    image_set.record_images(records, "train"),
    encoding.record_prompts(settings, records, "train"),
    records.fields("train")["findings"],
    settings.standin_clip,
    settings=TrainSettings(num_steps=settings.standin_steps),
    progress=progress,
  )


def train_standin(
  images: Sequence[np.ndarray],
  prompts: Sequence[str],
  findings: np.ndarray,
  folder: pathlib.Path,
  *,
  settings: TrainSettings,
  progress: types.Progress = types.no_progress,
) -> pathlib.Path:
  """Trains a small CLIP and saves it, unless the folder holds this very one already.

  Args:
    images: n grey training images, `images[i]` uint8 [h w 1], all of one size.
    prompts: n texts, one an image.
    findings: [n f] 0, 1 or nan for unknown; equal rows count as the same content.
    folder: receives what `save_pretrained` writes, and `standin.json` with the
      settings, a fingerprint of the inputs and the losses; it is returned.

  Raises:
    errors.InputError: fewer than two images, or numbers of rows that differ.
    FloatingPointError: the loss is not finite; nothing was saved.
  """
  if not (len(images) == len(prompts) == len(findings) >= 2):
    raise errors.InputError(
      f"{len(images)} images, {len(prompts)} prompts, {len(findings)} rows of findings",
      "at least two training images, each with one prompt and one row",
      "add images to the training split",
    )
  fingerprint = _fingerprint(images, prompts, findings, settings)
  if read_marker(folder).get("fingerprint") == fingerprint:
    return folder
  start = time.monotonic()
  unfinished = Unfinished(
    path=folder.with_name(f"{folder.name}.unfinished.npz"), mark=fingerprint
  )
  model, losses = _train(
    images, list(prompts), findings, settings, unfinished, progress
  )
  marker = {
    "standin": True,
    "encoder": clip_model.describe(model),
    "fingerprint": fingerprint,
    "num_images": len(images),
    "num_steps": len(losses),
    "seconds": round(time.monotonic() - start, 1),
    "settings": dataclasses.asdict(settings),
    "losses": losses[:: max(1, len(losses) // 50)],
  }
  _save(model, marker, folder)
  unfinished.remove()
  return folder


def _save(
  model: clip_model.ClipModel, marker: artifacts.Json, folder: pathlib.Path
) -> None:
  """Replaces the folder, marker included, as a whole or not at all."""
  folder.parent.mkdir(parents=True, exist_ok=True)
  with (
    disk.reporting(folder),
    staging.temporary_folder(f".{folder.name}-", [folder.parent]) as outer,
  ):
    # A temporary folder can be read by its owner alone.
    new = outer / folder.name
    new.mkdir()
    clip_small.save(model, new)
    checked_files.write_json(new / MARKER, marker)
    checksums.seal(new)
    shutil.rmtree(folder, ignore_errors=True)
    new.rename(folder)


def read_marker(folder: pathlib.Path) -> artifacts.Json:
  """Returns what `standin.json` of a folder says, {} where there is none."""
  path = folder / MARKER
  return checked_files.read_json(path) if path.is_file() else {}


def _train(
  images: Sequence[np.ndarray],
  prompts: list[str],
  findings: np.ndarray,
  settings: TrainSettings,
  unfinished: Unfinished,
  progress: types.Progress,
) -> tuple[clip_model.ClipModel, list[dict[str, float]]]:
  """Returns the trained model and the losses of each step."""
  generator, pixels = np.random.default_rng(settings.seed), _sample(images, 512) / 255.0
  model = clip_small.create(
    generator,
    sizes=settings.sizes,
    tokenizer=clip_small.train_tokenizer(prompts, settings.sizes),
    pixel_mean=float(pixels.mean()),
    pixel_std=float(pixels.std() + 1e-3),
  )
  heads = standin_loss.make_heads(generator, settings.sizes, findings)
  encoded = model.tokenizer(
    prompts, padding=True, truncation=True, max_length=model.max_tokens
  )
  ids = np.asarray(encoded["input_ids"], np.int32)
  rate = fitting.learning_rate(settings.learning_rate, settings.num_steps)
  tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate, b2=0.98))
  # One flat vector of parameters compiles sooner.
  tx = optax.flatten(tx)

  def read_batch(rows: np.ndarray) -> types.Batch:
    return {
      "image": clip_inputs.fit([images[i] for i in rows], model.pixels),
      "ids": ids[rows],
      "findings": np.asarray(findings[rows], np.float32),
    }

  def loss_fn(key, params, batch: types.Batch):
    batch = dict(batch, image=standin_loss.augment(key, batch["image"]))
    return standin_loss.losses_of(model, params, batch)

  fitted = fitting.fit(
    fitting.make_step_fn(loss_fn, tx, _limit_scale),
    tx,
    {"clip": model.params, "heads": heads},
    read_batch,
    len(images),
    name="stand-in CLIP",
    num_steps=settings.num_steps,
    batch_size=settings.batch_size,
    seed=settings.seed,
    unfinished=unfinished,
    progress=progress,
  )
  return dataclasses.replace(model, params=fitted.params["clip"]), fitted.losses


def _limit_scale(params: types.Params) -> types.Params:
  """As in CLIP: a scale beyond 100 makes training unstable."""
  scale = jnp.minimum(params["clip"]["logit_scale"], jnp.log(100.0))
  return {**params, "clip": {**params["clip"], "logit_scale": scale}}


def _sample(images: Sequence[np.ndarray], count: int) -> np.ndarray:
  """Stacks at most `count` evenly spaced images."""
  rows = np.unique(np.linspace(0, len(images) - 1, count).astype(int))
  return np.stack([np.asarray(images[i]) for i in rows])


def _fingerprint(
  images: Sequence[np.ndarray],
  prompts: Sequence[str],
  findings: np.ndarray,
  settings: TrainSettings,
) -> str:
  """Tells inputs apart: all prompts and findings, 64 of the images, the settings."""
  digest = hashlib.sha256(repr(settings).encode())
  digest.update(json.dumps([len(images), *prompts]).encode())
  digest.update(np.nan_to_num(findings, nan=2).astype(np.uint8).tobytes())
  digest.update(_sample(images, 64).tobytes())
  return digest.hexdigest()[:16]
