"""How close published ELIXR embeddings are to those that the models here make.

rows of files, prompts or images of the same rows --models here--> [n d] beside [n d]
  -> cosine of a row's two embeddings, of different rows, and the rank of the own one

Published text embeddings are of texts that are not published: a prompt at sampling is
encoded as another kind of sentence than the run was trained on. Embeddings of images
should agree but for the pixels (the published ones are of 8 or 16 bits, see
`elixr.model`); where they do not, a reference at sampling is read differently too.
"""

from collections.abc import Mapping, Sequence
import dataclasses

import numpy as np

from cxr_diffusion_jax import errors, types
from cxr_diffusion_jax.data import images as images_lib
from cxr_diffusion_jax.data.records import records as records_lib
from cxr_diffusion_jax.data.settings import DataSettings
from cxr_diffusion_jax.data.sources.nih import layout
from cxr_diffusion_jax.encoders import base as encoder_lib
from cxr_diffusion_jax.encoders import encoding
from cxr_diffusion_jax.encoders.elixr.embed import largest_files
from cxr_diffusion_jax.encoders.elixr.files import reader
from cxr_diffusion_jax.encoders.elixr.files.file import TEXT_KINDS

# Rows that are encoded at a time.
_BATCH = 16


@dataclasses.dataclass(frozen=True, kw_only=True)
class Agreement:
  """Published embeddings beside those made here, of the same rows.

  Attributes:
    num: n rows.
    cosine: median over rows of the cosine of the two.
    cosine_of_others: median of that of a row's published and another row's own one.
    nearest: share of rows whose own one is the closest of all n, or as close.
    median_rank: of the own one among all n, from 1; equal ones count half.
  """

  num: int
  cosine: float
  cosine_of_others: float
  nearest: float
  median_rank: float

  @property
  def text(self) -> str:
    """One line for the log."""
    return (
      f"cosine {self.cosine:.3f}, with other rows {self.cosine_of_others:.3f}; the own"
      f" row is the closest in {self.nearest:.0%} of {self.num}, median rank"
      f" {self.median_rank:g}"
    )


def compare(published: np.ndarray, own: np.ndarray) -> Agreement:
  """Compares embeddings [n ...] of the same n >= 2 rows, as flat vectors."""
  left, right = (
    values.reshape(len(values), -1).astype(np.float32) for values in (published, own)
  )
  left, right = (
    x / (np.linalg.norm(x, axis=1, keepdims=True) + 1e-9) for x in (left, right)
  )
  cosines = left @ right.T
  same = np.diagonal(cosines)
  others = cosines[~np.eye(len(cosines), dtype=bool)].reshape(len(cosines), -1)
  # Equal vectors may differ by rounding.
  closer = (others > same[:, None] + 1e-6).sum(axis=1)
  equal = (np.abs(others - same[:, None]) <= 1e-6).sum(axis=1)
  return Agreement(
    num=len(cosines),
    cosine=float(np.median(same)),
    cosine_of_others=float(np.median(others)),
    nearest=float((closer == 0).mean()),
    median_rank=float(np.median(1 + closer + equal / 2)),
  )


def measure(
  settings: DataSettings,
  records: records_lib.Records,
  kind: str,
  encoder: encoder_lib.Encoder,
  num: int,
  progress: types.Progress = types.no_progress,
) -> Agreement:
  """Encodes rows again whose embeddings of a kind are in files, and compares.

  Args:
    kind: a key of `SHAPES`.
    num: rows, chosen at random among the records with embeddings, or all of fewer.

  Raises:
    errors.InputError: the tree has no such embeddings of two records, or a file is not
      usable.
  """
  texts = {
    str(name): text
    for split in records.num_rows
    for name, text in zip(
      records.ids(split),
      encoding.record_prompts(settings, records, split)
      if kind in TEXT_KINDS
      else [""] * records.num_rows[split],
      strict=True,
    )
  }
  published = _published(settings, kind, sorted(texts), num)
  paths = {}
  if kind not in TEXT_KINDS:
    if settings.nih_root is None:
      raise errors.InputError(
        f"--check_embeddings of {kind} with config.data.source={settings.source}",
        "source nih, whose images are encoded again",
        "leave it out",
      )
    paths = largest_files(layout.find_tree(settings.nih_root))
  ids, own = list(published), []
  for start in range(0, len(ids), _BATCH):
    batch = ids[start : start + _BATCH]
    own.append(_encode(encoder, kind, batch, texts, paths))
    progress(f"{kind} made here", min(start + _BATCH, len(ids)), len(ids))
  return compare(np.stack(list(published.values())), np.concatenate(own))


def _published(
  settings: DataSettings, kind: str, ids: Sequence[str], num: int
) -> dict[str, np.ndarray]:
  """Embeddings in files, of at most `num` of the ids."""
  files = reader.find_elixr(settings.root, kind)
  # More than asked for, as files may lack some.
  order = np.random.default_rng(0).permutation(ids)
  rows: dict[str, np.ndarray] = {}
  for first in range(0, len(order) if files else 0, max(num, 1)):
    if files is None or len(rows) >= num:
      break
    for stems, values in files.batches(order[first : first + num]):
      rows |= dict(zip(map(str, stems), values, strict=True))
  if len(rows) < 2:
    raise errors.InputError(
      f"{len(rows)} of {len(ids)} records with {kind} embeddings in {settings.root}",
      "files with those of two records, to compare with",
    )
  return dict(list(rows.items())[:num])


def _encode(
  encoder: encoder_lib.Encoder,
  kind: str,
  ids: Sequence[str],
  texts: Mapping[str, str],
  paths: Mapping[str, str],
) -> np.ndarray:
  if kind in TEXT_KINDS:
    return encoder.encode_text([kind], [texts[name] for name in ids])[kind]
  whole = [images_lib.read_grey(paths[name]) for name in ids]
  return encoder.encode_images([kind], whole)[kind]
