"""Runs a frozen encoder over the images of a tree and leaves ELIXR files of form A.

  tree --threads--> images --encoder--> files of some hundred rows, hidden in the tree
    --when a kind has all its rows--> ROOT/elixrc/, ROOT/elixrb/KIND/

The next call continues after the last hidden file. Later images go into more files.
"""

from collections.abc import Generator, Iterator, Mapping, Sequence
import contextlib
import itertools
import os
import pathlib

from absl import logging
import numpy as np

from cxr_diffusion_jax import disk, errors, types
from cxr_diffusion_jax.conditioning import base as conditioning
from cxr_diffusion_jax.data import images
from cxr_diffusion_jax.data.records import records as records_lib
from cxr_diffusion_jax.data.settings import DataSettings
from cxr_diffusion_jax.data.sources.nih import layout
from cxr_diffusion_jax.encoders import base as encoder_lib
from cxr_diffusion_jax.encoders import encoding
from cxr_diffusion_jax.encoders.elixr import kind as elixr_kind
from cxr_diffusion_jax.encoders.elixr.files import file as elixr_file
from cxr_diffusion_jax.encoders.elixr.files.file import SHAPES, TEXT_KINDS
from cxr_diffusion_jax.encoders.elixr.kind import KindFiles


def embed_named(
  settings: DataSettings,
  names: Sequence[str],
  needs: conditioning.Needs,
  encoder: encoder_lib.Encoder,
  progress: types.Progress = types.no_progress,
) -> tuple[str, ...]:
  """Makes missing embeddings of a dataset's folder, given by name; see `embed`.

  `names` are keys of `SHAPES`; 'elixr' means those that the path needs, or all where it
  needs none.

  Raises:
    errors.InputError: an unknown name, or see `embed`.
  """
  unknown = sorted(set(names) - {"elixr", *SHAPES})
  if unknown:
    raise errors.InputError(
      f"--embed {unknown[0]}", f"elixr, or some of {', '.join(sorted(SHAPES))}"
    )
  if settings.nih_root is None:
    raise errors.InputError(
      f"--embed with config.data.source={settings.source}",
      "source nih, to whose files embeddings are joined",
      "choose a path that reads no ELIXR embeddings",
    )
  kinds = [name for name in names if name != "elixr"]
  if "elixr" in names:
    kinds += [name for name in needs.columns if name in SHAPES] or SHAPES
  prompts = None
  if set(kinds) & set(TEXT_KINDS):
    records = records_lib.prepare_records(settings, progress=progress)
    prompts = {
      str(name): text
      for split in records.num_rows
      for name, text in zip(
        records.ids(split),
        encoding.record_prompts(settings, records, split),
        strict=True,
      )
    }
  return embed(
    settings.nih_root,
    list(dict.fromkeys(kinds)),
    encoder,
    prompts=prompts,
    progress=progress,
  )


def embed(
  settings_root: str | os.PathLike,
  kinds: Sequence[str],
  encoder: encoder_lib.Encoder,
  *,
  prompts: Mapping[str, str] | None = None,
  batch_size: int = 16,
  rows_per_file: int = 512,
  progress: types.Progress = types.no_progress,
) -> tuple[str, ...]:
  """Makes missing embeddings of a tree, in float32; returns the newly complete kinds.

  The largest copy of each image in the tree is read.

  Args:
    settings_root: the tree.
    kinds: keys of `SHAPES`.
    encoder: takes images of any size.
    prompts: stem -> text, for text kinds; images without a text are left out of these.
    batch_size: images in memory at a time.
    rows_per_file: images per file, rounded down to whole batches; a killed run loses
      the work on one file at most.
    progress: called with the number of images done.

  Raises:
    InputError: no tree; an image that cannot be read; no texts; embeddings of another
      source or of other texts are there; the disk is too small.
  """
  root = pathlib.Path(settings_root)
  kinds = [kind for kind in SHAPES if kind in kinds]
  paths = largest_files(layout.find_tree(root))
  texts = _texts_of(paths, kinds, prompts)
  # A multiple of the batch size, so that files end with a batch.
  rows_per_file = batch_size * max(1, rows_per_file // batch_size)
  work = [
    elixr_kind.open_kind(
      root, kind, encoder, texts if kind in TEXT_KINDS else dict.fromkeys(paths)
    )
    for kind in kinds
  ]
  done = len(paths) - len(frozenset().union(*(kind.missing for kind in work)))
  with disk.reporting(root):
    _check_disk(root, work)
    for names, stems in _by_kinds(work).items():
      group = [kind for kind in work if kind.name in names]
      batches = _encode(encoder, names, stems, paths, texts, batch_size)
      with contextlib.closing(batches):
        for start in range(0, len(stems), rows_per_file):
          chunk = stems[start : start + rows_per_file]
          for count in _write_files(group, chunk, batches, encoder, texts):
            done += count
            progress("ELIXR embeddings", done, len(paths))
    return tuple(kind.name for kind in work if elixr_kind.publish(kind))


def largest_files(tree: layout.Tree) -> dict[str, str]:
  """Stem -> the file of that image with the most pixels."""
  paths: dict[str, str] = {}
  for size in sorted(tree.resized):
    paths.update(tree.resized[size])
  return {**paths, **tree.originals}


def _texts_of(
  paths: Mapping[str, str], kinds: Sequence[str], prompts: Mapping[str, str] | None
) -> dict[str, str]:
  """The texts of the tree's images; empty where no kind is made of texts."""
  if not set(kinds) & set(TEXT_KINDS):
    return {}
  prompts = prompts or {}
  texts = {stem: prompts[stem] for stem in paths if stem in prompts}
  if not texts:
    raise errors.InputError(
      f"no texts for {', '.join(kind for kind in kinds if kind in TEXT_KINDS)}",
      "a text for each image",
      "make them from findings, or give a CSV with a column `report`",
    )
  if len(texts) < len(paths):
    logging.warning(
      "%d of %d images have no text: their text embeddings are not made",
      *(len(paths) - len(texts), len(paths)),
    )
  return texts


def _check_disk(root: pathlib.Path, work: Sequence[KindFiles]) -> None:
  disk.check_room(
    root,
    sum(len(kind.missing) * kind.row_bytes for kind in work),
    ", ".join(kind.name for kind in work),
    "free disk, or ask for fewer kinds",
  )


def _by_kinds(work: Sequence[KindFiles]) -> dict[tuple[str, ...], list[str]]:
  """The stems that lack the same kinds, together: each image is encoded once."""
  groups: dict[tuple[str, ...], list[str]] = {}
  for stem in sorted(frozenset().union(*(kind.missing for kind in work))):
    lacking = tuple(kind.name for kind in work if stem in kind.missing)
    groups.setdefault(lacking, []).append(stem)
  return groups


def _encode(
  encoder: encoder_lib.Encoder,
  kinds: Sequence[str],
  stems: Sequence[str],
  paths: Mapping[str, str],
  texts: Mapping[str, str],
  batch_size: int,
) -> Generator[dict[str, np.ndarray], None, None]:
  """Yields the values of each kind, batch by batch; images are read ahead."""
  of_images = [kind for kind in kinds if kind not in TEXT_KINDS]
  of_texts = [kind for kind in kinds if kind in TEXT_KINDS]
  wanted = [paths[stem] for stem in stems] if of_images else []
  with contextlib.closing(images.in_threads(images.read_grey, wanted)) as decoded:
    for start in range(0, len(stems), batch_size):
      part = stems[start : start + batch_size]
      values: dict[str, np.ndarray] = {}
      if of_images:
        batch = list(itertools.islice(decoded, len(part)))
        values |= encoder.encode_images(of_images, batch)
      if of_texts:
        values |= encoder.encode_text(of_texts, [texts[stem] for stem in part])
      yield values


def _write_files(
  group: Sequence[KindFiles],
  stems: Sequence[str],
  batches: Iterator[dict[str, np.ndarray]],
  encoder: encoder_lib.Encoder,
  texts: Mapping[str, str],
) -> Iterator[int]:
  """Writes one file of `stems` for every kind; yields the numbers of rows as it goes.

  The files appear in the hidden folder when they are whole and on the disk.
  """
  parts = {kind: kind.next_file().with_suffix(".h5.part") for kind in group}
  with contextlib.ExitStack() as stack:
    files = {}
    for kind, part in parts.items():
      part.parent.mkdir(parents=True, exist_ok=True)
      origin = (encoder.description, encoder.standin)
      file = elixr_kind.create_file(part, kind.name, len(stems), *origin)
      files[kind] = stack.enter_context(file)
    start = 0
    while start < len(stems):
      values = next(batches)
      count = len(next(iter(values.values())))
      rows = stems[start : start + count]
      for kind, file in files.items():
        elixr_file.check_finite(kind.staging, np.array(rows), values[kind.name])
        kept = [texts[stem] for stem in rows] if kind.name in TEXT_KINDS else None
        elixr_kind.write_rows(file, kind.name, start, rows, values[kind.name], kept)
      start += count
      yield count
  for part in parts.values():
    with open(part, "rb") as file:
      os.fsync(file.fileno())
    os.replace(part, part.with_suffix(""))
