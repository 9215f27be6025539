"""Runs an encoder over all records: one array per row, stored as a column.

  texts of the records --encode_text--> column      images --encode_images--> column
  further captions of training rows --encode_text--> columns NAME-caption1, ...
  labels, boxes, view, age, sex --seed and id--> text     or a report as it is

An interrupted run continues with the missing rows.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
import functools
import hashlib
import math
import pathlib

import numpy as np

from cxr_diffusion_jax import checked_files, errors, types
from cxr_diffusion_jax.conditioning import base as conditioning
from cxr_diffusion_jax.data import images as images_lib
from cxr_diffusion_jax.data import prompts, reports, splits
from cxr_diffusion_jax.data.columns import column as columns_lib
from cxr_diffusion_jax.data.columns import writer as column_writer
from cxr_diffusion_jax.data.records import records as records_lib
from cxr_diffusion_jax.data.settings import DataSettings
from cxr_diffusion_jax.encoders import base, empty_text

BATCH = 64

# Rows that a kill may lose.
ROWS_AT_RISK = 512

# Columns are stored in float16; this is its largest value.
LARGEST = 65504.0


def folder(settings: DataSettings, spec: conditioning.ColumnSpec) -> pathlib.Path:
  """The folder with `columns/NAME`: one for each model and number of windows."""
  if not spec.model:
    return settings.records_folder
  mark = hashlib.sha256(repr((spec.model, spec.chunks)).encode()).hexdigest()[:8]
  return settings.records_folder / f"{spec.encoder}-{mark}"


def num_captions(settings: DataSettings, spec: conditioning.ColumnSpec) -> int:
  """How many captions of a training row a column has."""
  return settings.captions if spec.source == "text" else 1


def caption_column(name: str, caption: int) -> str:
  """The name of the column of a caption; caption 0 is the column `name` itself."""
  return f"{name}-caption{caption}" if caption else name


def encode_columns(
  settings: DataSettings,
  records: records_lib.Records,
  specs: Sequence[conditioning.ColumnSpec],
  open_fn: Callable[[], base.Encoder],
  progress: types.Progress = types.no_progress,
  *,
  description: str = "",
) -> None:
  """Makes those columns of one encoder that are missing or stale.

  A text column gets a column for each further caption of the training rows.

  Args:
    settings: of the data.
    records: of the dataset.
    specs: columns that the encoder makes.
    open_fn: opens the encoder; called once, and only if a column has to be made.
    progress: called with the number of finished rows.
    description: the encoder's description, if known without opening it.

  Raises:
    errors.InputError: a spec's `location` has a different encoder from the one that
      made the column.
  """
  open_fn = functools.cache(open_fn)
  description = description or open_fn().description

  def writer(
    spec: conditioning.ColumnSpec, caption: int, stale: columns_lib.Column | None
  ) -> Callable[..., columns_lib.Column | None]:
    if stale is not None and spec.location:
      # A wrong location must not replace a good column.
      base.check_same(spec.name, description, stale.description.encoder)
    encoder = open_fn()
    shape = encoder.shapes[spec.name]
    return functools.partial(
      column_writer.write_column,
      shape=shape,
      encoder=description,
      standin=encoder.standin,
      batches=functools.partial(_rows, settings, records, encoder, spec, caption),
      flush_bytes=ROWS_AT_RISK * 2 * math.prod(shape),
    )

  for spec in specs:
    for caption in range(num_captions(settings, spec)):
      facts = [base.identity(description), records.fingerprint]
      if spec.source == "text":
        facts.append(prompts_fingerprint(settings, records, caption))
      refresh_column(
        folder(settings, spec),
        records,
        caption_column(spec.name, caption),
        hashlib.sha256(repr(facts).encode()).hexdigest(),
        functools.partial(writer, spec, caption),
        progress,
        splits=_splits(records, caption),
      )
    if records.share[0] == 0:
      empty_text.make(folder(settings, spec), [spec], description, open_fn)


def refresh_column(
  target: pathlib.Path,
  records: records_lib.Records,
  name: str,
  fingerprint: str,
  writer: Callable[
    [columns_lib.Column | None], Callable[..., columns_lib.Column | None]
  ],
  progress: types.Progress = types.no_progress,
  *,
  splits: Iterable[str] | None = None,
) -> columns_lib.Column | None:
  """Returns a column of the records, which is made if it is missing or stale.

  With a share of the records, its rows are made, but no column; None then.

  Args:
    target: the folder with `columns/NAME`.
    records: of the dataset.
    name: of the column.
    fingerprint: of what the values are made from.
    writer: stale column or None -> `write_column` with its other arguments; called
      only if the column has to be made.
    progress: called with the number of finished rows.
    splits: that it has rows of; None for all.
  """
  splits = records.num_rows if splits is None else splits
  ids = {split: records.ids(split) for split in splits}
  column = columns_lib.open_column(target, name)
  wanted = columns_lib.ids_fingerprint(ids)
  if column is not None and columns_lib.is_fresh(column, wanted, fingerprint):
    return column
  return writer(column)(
    target,
    ids=ids,
    name=name,
    fingerprint=fingerprint,
    progress=progress,
    share=records.share,
  )


def kept_description(
  target: pathlib.Path, mark: str, open_fn: Callable[[], base.Encoder]
) -> str:
  """An encoder's description, kept beside its columns so that none is loaded again.

  `mark` changes with the encoder's files; `open_fn` opens it.
  """
  path = target / "encoder.json"
  if path.is_file():
    kept = checked_files.read_json(path)
    if kept["mark"] == mark:
      return kept["description"]
  description = open_fn().description
  checked_files.write_json(path, {"mark": mark, "description": description})
  return description


def checked(by_name: dict[str, np.ndarray], model: str) -> dict[str, np.ndarray]:
  """Returns values of columns, made by a model, that float16 can hold.

  Raises:
    errors.InputError: a value that is too large, or not finite.
  """
  for name, values in by_name.items():
    # Written so that NaN is refused too.
    if not (largest := float(np.abs(values).max())) < LARGEST:
      raise errors.InputError(
        f"{name} of {model} reaches {largest}",
        f"numbers below {LARGEST:.0f}, as float16 keeps them",
        "the weights may be damaged: copy them again, or take another model",
      )
  return by_name


def _splits(records: records_lib.Records, caption: int) -> tuple[str, ...]:
  """The splits that have a caption: only training draws others than 0."""
  return ("train",) if caption else tuple(records.num_rows)


def _rows(
  settings: DataSettings,
  records: records_lib.Records,
  encoder: base.Encoder,
  spec: conditioning.ColumnSpec,
  caption: int,
  wanted: np.ndarray | None,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Yields (ids [k], values [k *shape]) of the wanted ids, or of all for None."""
  if spec.source == "image":
    for ids, images in image_batches(records, wanted, BATCH):
      values = encoder.encode_images([spec.name], list(images[..., 0]))
      yield ids, values[spec.name]
    return
  for split in _splits(records, caption):
    ids = records.ids(split)
    rows = (
      np.arange(len(ids)) if wanted is None else np.flatnonzero(np.isin(ids, wanted))
    )
    texts = record_prompts(settings, records, split, caption) if len(rows) else []
    for start in range(0, len(rows), BATCH):
      batch = rows[start : start + BATCH]
      values = encoder.encode_text([spec.name], [texts[row] for row in batch])
      yield ids[batch], values[spec.name]


def image_batches(
  records: records_lib.Records, wanted: np.ndarray | None, batch_size: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Yields ids [k] and images uint8 [k h w 1], which are read ahead.

  `wanted` are ids, None for all; k is `batch_size`, smaller at the end.
  """
  splits = [split for split, count in records.num_rows.items() if count]
  sources = {split: records_lib.RecordSource(records, split) for split in splits}
  places = [(split, row) for split in splits for row in range(len(sources[split]))]
  ids = np.concatenate([records.ids(split) for split in splits])
  if wanted is not None:
    keep = np.flatnonzero(np.isin(ids, wanted))
    ids, places = ids[keep], [places[i] for i in keep]

  def read(start: int) -> np.ndarray:
    batch = places[start : start + batch_size]
    return np.stack([sources[split][row]["image"] for split, row in batch])

  starts = range(0, len(places), batch_size)
  for start, images in zip(starts, images_lib.in_threads(read, starts), strict=True):
    yield ids[start : start + batch_size], images


def record_prompts(
  settings: DataSettings, records: records_lib.Records, split: str, caption: int = 0
) -> list[str]:
  """Returns one text a row of a split: written from its labels, or its report.

  With `report_or_labels`, images without a report have a prompt of their labels.
  Captions other than 0 are in other phrasings and leave out attributes at the rate
  `settings.caption_drop`; those of a report are some of its sentences.

  Raises:
    errors.InputError: only reports are asked for, and an image has none.
  """
  fields = records.fields(split)
  ids, seed = fields["id"].tolist(), settings.prompt_seed
  reported = [""] * len(ids)
  if settings.prompts != "labels":
    reported = reports.captions(ids, records.reports(split), seed=seed, number=caption)
  if settings.prompts == "report":
    reports.check(ids, reported, settings.root)
    return reported
  written = prompts.texts(
    ids,
    fields["findings"],
    fields["view"],
    fields["age"],
    fields["sex"],
    # Sides and zones are those of the whole image, whatever a crop leaves of it.
    records.boxes(split),
    vocabulary=records.vocabulary,
    seed=seed,
    caption=caption,
    drop=settings.caption_drop,
  )
  return [text or other for text, other in zip(reported, written, strict=True)]


def prompts_fingerprint(
  settings: DataSettings, records: records_lib.Records, caption: int = 0
) -> str:
  """A hash of all that `record_prompts` depends on."""
  # The records' own fingerprint covers labels, boxes and reports.
  facts = [records.fingerprint, settings.prompts, settings.prompt_seed]
  if settings.prompts != "report":
    known = all((records.fields(one)["view"] >= 0).all() for one in splits.SPLITS)
    facts.append(prompts.fingerprint() if known else prompts.fingerprint_without_view())
  if caption:
    facts.append(caption)
    if settings.prompts != "report":
      facts += [settings.caption_drop, prompts.partial_fingerprint()]
    if settings.prompts != "labels":
      facts.append(reports.caption_fingerprint())
  return hashlib.sha256(repr(facts).encode()).hexdigest()
