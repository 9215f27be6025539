"""Writes stand-ins of ELIXR embeddings in the published shapes and files, from a CLIP.

With u the lift to a wider space (`lift`), and CLIP's own projection to the shared one:

  elixrc                   [8 8 1376]  u(patch states)
  img_emb                  [32 768]    u(patch states pooled over 32 regions)
  all_contrastive_img_emb  [32 128]    the same pools in the shared space, length 1
  contrastive_img_emb      [128]       the class token in the shared space, length 1
  txt_emb                  [128 768]   u(text states), zeros after the end of the text
  contrastive_txt_emb      [128]       the text in the shared space, length 1

The image kinds are functions of the image alone, the text kinds of the text alone, as
ELIXR's are (Xu et al., 2308.01317). `max over 32 of cos(all_contrastive, text)` scores
an image against a text, as there, because the stand-in was trained on that score.
"""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import functools
import hashlib
import json
import os

import numpy as np

from cxr_diffusion_jax import errors, types
from cxr_diffusion_jax.data.image_sets import image_set
from cxr_diffusion_jax.data.records import records as records_lib
from cxr_diffusion_jax.data.settings import DataSettings
from cxr_diffusion_jax.encoders.clip import model as clip_model
from cxr_diffusion_jax.encoders.clip import record_prompts
from cxr_diffusion_jax.encoders.elixr.files import reader as elixr
from cxr_diffusion_jax.encoders.elixr.files import writer as elixr_writer
from cxr_diffusion_jax.encoders.elixr.files.file import TEXT_KINDS
from cxr_diffusion_jax.encoders.standin import loss, training

CONTRASTIVE = ("all_contrastive_img_emb", "contrastive_img_emb", "contrastive_txt_emb")


def write_elixr(
  settings: DataSettings,
  records: records_lib.Records,
  kinds: Sequence[str],
  progress: types.Progress = types.no_progress,
) -> None:
  """Trains the CLIP if need be, and writes kinds of embedding below `standin_root`."""
  training.train_clip(settings, records, progress)
  filled = [split for split, n in records.num_rows.items() if n]
  write_standin_elixr(
    settings.standin_clip,
    ids=np.concatenate([records.ids(split) for split in filled]).tolist(),
    images=image_set.chain(
      [image_set.record_images(records, split) for split in filled]
    ),
    prompts=[
      text
      for split in filled
      for text in record_prompts.of_split(settings, records, split)
    ],
    root=settings.standin_root,
    kinds=kinds,
    mark=prompts_mark(settings, records),
    progress=progress,
  )


def prompts_mark(settings: DataSettings, records: records_lib.Records) -> str:
  """What the stand-in files of these prompts have in their encoder's name."""
  return f", prompts {record_prompts.fingerprint(settings, records)[:8]}"


def write_standin_elixr(
  clip_folder: str | os.PathLike,
  ids: Sequence[str],
  images: Sequence[np.ndarray],
  prompts: Sequence[str],
  root: str | os.PathLike,
  kinds: Sequence[str] = ("elixrc",),
  *,
  mark: str = "",
  batch_size: int = 64,
  progress: types.Progress = types.no_progress,
) -> tuple[str, ...]:
  """Encodes images and prompts and writes them under a tree in form A, in float16.

  Existing kinds of the same model and inputs are left alone; others appear whole or not
  at all. The three contrastive kinds share files: one brings all.

  Args:
    clip_folder: a CLIP with a grid of 8x8 patches, such as `train_standin` makes.
    ids: n stems of image files, no two equal.
    images: n grey images, `images[i]` uint8 [h w 1], all of one size.
    prompts: n texts; may be empty when no kind needs text.
    root: the dataset tree.
    kinds: keys of `elixr.SHAPES`.
    mark: added to the encoder's name in the files.
    batch_size: images in memory at a time.
    progress: called with the number of images written.

  Returns the kinds that were written.

  Raises:
    errors.InputError: CLIP or rows do not fit, or published embeddings are in the way.
  """
  kinds = _expand(kinds)
  needs_text = bool(set(kinds) & set(TEXT_KINDS))
  if len(ids) != len(images) or (needs_text and len(ids) != len(prompts)):
    raise errors.InputError(
      f"{len(ids)} ids, {len(images)} images, {len(prompts)} prompts", "as many of each"
    )
  model = clip_model.load(clip_folder)
  check_fits(model)
  encoder = f"{clip_model.describe(model)}, {_origin(ids, images, prompts)}{mark}"
  missing = tuple(kind for kind in kinds if not _is_written(root, kind, encoder))
  if missing:
    elixr_writer.write_form_a(
      root,
      kinds=missing,
      num_rows=len(ids),
      batches=_batches(model, ids, images, prompts, missing, batch_size),
      encoder=encoder,
      standin=True,
      dtype="float16",
      progress=progress,
    )
  return missing


def check_fits(model: clip_model.ClipModel) -> None:
  """Raises InputError unless a CLIP can replace ELIXR."""
  image, text = model.config.vision_config, model.config.text_config
  shared = model.config.projection_dim
  widest = max(image.hidden_size, text.hidden_size)
  if model.grid != 8 or widest > 768 or shared > 128 or model.max_tokens > 128:
    raise errors.InputError(
      f"{model.name}: {model.grid}x{model.grid} patches, width {widest}, shared space"
      f" {shared}, {model.max_tokens} tokens",
      "8x8 patches, width <= 768, shared space <= 128, <= 128 tokens",
      "use the folder that `prepare --standin` makes",
    )


def lift(states: np.ndarray, width: int) -> np.ndarray:
  """Embeds states isometrically, up to one scale, in a wider space.

  lifted = states @ Q * sqrt(width / d), with Q from `lift_basis`. Numbers of mean
  square 1 stay so, and lifted @ Q.T * sqrt(d / width) gives the states back.

  Args:
    states: [... d].
    width: at least d.

  Returns:
    [... width] float32.
  """
  depth = states.shape[-1]
  rows = np.asarray(states, np.float32).reshape(-1, depth)
  lifted = rows @ (lift_basis(depth, width) * np.float32(np.sqrt(width / depth)))
  return lifted.reshape(*states.shape[:-1], width)


@functools.cache
def lift_basis(depth: int, width: int) -> np.ndarray:
  """Returns the fixed orthonormal rows Q [depth width] that `lift` uses, float32.

  They are the Q factor of standard normal draws [width depth] of numpy's
  default_rng(1376 + width), signed so that the triangular factor's diagonal is
  positive, because LAPACK's signs vary.
  """
  draws = np.random.default_rng(1376 + width).standard_normal((width, depth))
  basis, triangle = np.linalg.qr(draws)
  return (basis * np.sign(np.diag(triangle))).T.astype(np.float32)


def image_kinds(
  model: clip_model.ClipModel, images: np.ndarray, kinds: Sequence[str]
) -> dict[str, np.ndarray]:
  """Makes the image kinds among `kinds`, each [n *shape] float32.

  Args:
    model: fits, see `check_fits`.
    images: [n h w 1] uint8.
    kinds: keys of `elixr.SHAPES`; text kinds are left out.
  """
  tokens, whole = clip_model.encode_images(model, images, batch_size=len(images))
  states = np.asarray(loss.patch_states(tokens))
  pooled = np.einsum("rp,npd->nrd", loss.region_weights(model.grid), states)
  grid = states.reshape(len(images), model.grid, model.grid, -1)
  make = {
    "elixrc": lambda: lift(grid, 1376),
    "img_emb": lambda: lift(pooled, 768),
    "all_contrastive_img_emb": lambda: _shared(
      np.asarray(model.project_fn(model.params, pooled))
    ),
    "contrastive_img_emb": lambda: _shared(whole),
  }
  return {kind: make[kind]() for kind in kinds if kind in make}


def text_kinds(
  model: clip_model.ClipModel, prompts: Sequence[str], kinds: Sequence[str]
) -> dict[str, np.ndarray]:
  """Makes the text kinds among `kinds`, each [n *shape] float32."""
  if not set(kinds) & set(TEXT_KINDS):
    return {}
  tokens, mask, embedding = clip_model.encode_text(
    model, prompts, batch_size=len(prompts)
  )
  centred = tokens - tokens.mean(axis=-1, keepdims=True)
  states = centred / np.sqrt(np.square(centred).mean(axis=-1, keepdims=True) + 1e-5)
  lifted = lift(states * mask[..., None], 768)
  room = ((0, 0), (0, 128 - model.max_tokens), (0, 0))
  values = {"txt_emb": np.pad(lifted, room), "contrastive_txt_emb": _shared(embedding)}
  return {kind: values[kind] for kind in kinds if kind in values}


@dataclasses.dataclass(frozen=True, kw_only=True)
class StandinEncoder:
  """Encodes as `write_standin_elixr` did, with a CLIP that fits (`check_fits`)."""

  model: clip_model.ClipModel

  @property
  def description(self) -> str:
    return clip_model.describe(self.model)

  @property
  def standin(self) -> bool:
    return True

  @property
  def shapes(self) -> Mapping[str, tuple[int, ...]]:
    return elixr.SHAPES

  @property
  def whole_images(self) -> bool:
    return False

  def encode_text(
    self, columns: Sequence[str], prompts: Sequence[str]
  ) -> dict[str, np.ndarray]:
    return text_kinds(self.model, prompts, columns)

  def encode_images(
    self, columns: Sequence[str], images: Sequence[np.ndarray]
  ) -> dict[str, np.ndarray]:
    return image_kinds(self.model, np.stack(images)[..., None], columns)


def _shared(vectors: np.ndarray) -> np.ndarray:
  """Scales to length 1 in 128 dimensions; cosines are those of CLIP's own space."""
  wide = lift(vectors, 128) if vectors.shape[-1] < 128 else vectors
  return wide / (np.linalg.norm(wide, axis=-1, keepdims=True) + 1e-6)


def _batches(
  model: clip_model.ClipModel,
  ids: Sequence[str],
  images: Sequence[np.ndarray],
  prompts: Sequence[str],
  kinds: Sequence[str],
  batch_size: int,
) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
  """Yields (stems [k], values of each kind)."""
  for start in range(0, len(ids), batch_size):
    rows = range(start, min(start + batch_size, len(ids)))
    values = text_kinds(model, [prompts[i] for i in rows], kinds) if prompts else {}
    values |= image_kinds(model, np.stack([images[i] for i in rows]), kinds)
    # Narrowed here: HDF5's own conversion is ten times slower.
    halves = {kind: value.astype(np.float16) for kind, value in values.items()}
    yield np.asarray([ids[i] for i in rows], np.str_), halves


def _expand(kinds: Sequence[str]) -> tuple[str, ...]:
  """Sorts kinds, with all of the contrastive ones when one is wanted."""
  unknown = sorted(set(kinds) - set(elixr.SHAPES))
  if unknown or not kinds:
    raise ValueError(f"kinds {unknown or 'none'}; known: {sorted(elixr.SHAPES)}")
  wanted = set(kinds)
  return tuple(sorted(wanted | set(CONTRASTIVE if wanted & set(CONTRASTIVE) else ())))


def _is_written(root: str | os.PathLike, kind: str, encoder: str) -> bool:
  """Says whether this very encoder's embeddings of this kind are under the tree."""
  files = elixr.find_elixr(root, kind)
  return files is not None and files.standin and files.encoder == encoder


def _origin(
  ids: Sequence[str], images: Sequence[np.ndarray], prompts: Sequence[str]
) -> str:
  """Says what was encoded: a hash of all ids and prompts, and of 16 images."""
  digest = hashlib.sha256(json.dumps([list(map(str, ids)), list(prompts)]).encode())
  for i in np.unique(np.linspace(0, len(ids) - 1, 16).astype(int)):
    digest.update(np.ascontiguousarray(images[int(i)]).tobytes())
  return f"lifted to ELIXR's shapes, inputs {digest.hexdigest()[:12]}"
