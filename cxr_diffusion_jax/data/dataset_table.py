"""The table of a dataset: of one source, or of several at once.

roots --sources--> tables --rename--> one vocabulary --join--> views, findings chosen

  config.data.source=nih+chexpert   config.data.root=nih-cxr,CheXpert-v1.0-small
"""

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import dataclasses

from etils import epath
import numpy as np

from cxr_diffusion_jax import errors, naming
from cxr_diffusion_jax.data import labels, splits
from cxr_diffusion_jax.data.settings import DataSettings
from cxr_diffusion_jax.data.sources import base


def read_table(settings: DataSettings) -> base.Table:
  """Reads the metadata of a dataset, as its settings choose it; opens no image.

  Raises:
    InputError: a source is not usable, a finding or a view has no such name, or no
      image shows one of the views.
  """
  renamed = settings.renamed
  tables, read = [], set()
  for source, root, options in _sources(settings):
    table = source.read_table(root, image_size=settings.image_size, **options)
    _check_ids(table)
    if hasattr(source, "read_vocabulary"):
      table = base.without_unknown(table)
    read |= {labels.plain(finding) for finding in table.vocabulary}
    tables.append(with_vocabulary(table, _renamed(table.vocabulary, renamed)))
  unknown = [name for name in renamed if labels.plain(name) not in read]
  if unknown:
    known = dict.fromkeys(name for table in tables for name in table.vocabulary)
    naming.check("config.data.rename", unknown[0], known)
  names = settings.source_names
  table = tables[0]
  if len(tables) > 1:
    table = join(names, tables, settings.split, settings.validation_fraction)
  if settings.chosen_findings:
    table = _choose(table, settings.chosen_findings)
  return choose_views(table, settings.chosen_views)


def vocabulary(settings: DataSettings) -> tuple[str, ...]:
  """The findings of the table, without its images.

  Of a source whose data is absent or cannot be read, its `VOCABULARY` counts.

  Raises:
    InputError: no such source.
  """
  if settings.chosen_findings:
    return settings.chosen_findings
  names: list[str] = []
  for source, root, options in _sources(settings):
    own = source.VOCABULARY
    read = getattr(source, "read_vocabulary", None)
    if read is not None and settings.root and root.exists():
      # Preparing the data reports what is wrong with it.
      with contextlib.suppress(errors.InputError):
        own = read(root, **options)
    names += _renamed(own, settings.renamed).values()
  return labels.distinct(filter(None, names))


def _sources(
  settings: DataSettings,
) -> Iterator[tuple[base.Source, epath.Path, dict[str, str]]]:
  """Each source with its root and its options."""
  modules = settings.source.split("+")
  for name, root in zip(modules, settings.roots, strict=True):
    source = base.open_source(name)
    options = {key: getattr(settings, key) for key in getattr(source, "OPTIONS", ())}
    yield source, epath.Path(root), options


def with_vocabulary(
  table: base.Table, targets: Mapping[str, str], vocabulary: Sequence[str] = ()
) -> base.Table:
  """Renames, joins and leaves out findings.

  Findings with one target, in any spelling, are joined by `labels.any_of`; its box
  encloses theirs.

  Args:
    targets: finding -> its new name, `` to leave it out.
    vocabulary: the new findings in order, which may hold others too; () for those of
      `targets` in the table's order.
  """
  vocabulary = tuple(vocabulary) or labels.distinct(filter(None, targets.values()))
  new = [labels.plain(targets[name]) for name in table.vocabulary]
  members = [
    [place for place, name in enumerate(new) if name == labels.plain(target)]
    for target in vocabulary
  ]
  if [[place] for place in range(len(table.vocabulary))] == members:
    return dataclasses.replace(table, vocabulary=vocabulary)
  findings = np.full((len(table), len(vocabulary)), np.nan, np.float32)
  for column, places in enumerate(members):
    if places:
      findings[:, column] = labels.any_of(table.findings[:, places])
  return dataclasses.replace(
    table,
    vocabulary=vocabulary,
    findings=findings,
    boxes={
      image_id: np.stack([enclosing(boxes[places]) for places in members])
      for image_id, boxes in table.boxes.items()
    },
  )


def enclosing(boxes: np.ndarray) -> np.ndarray:
  """[4] the smallest (x, y, width, height) around boxes [m 4]; nan where all are."""
  boxes = boxes[~np.isnan(boxes).any(axis=1)]
  if not len(boxes):
    return np.full(4, np.nan, np.float32)
  low = boxes[:, :2].min(axis=0)
  high = (boxes[:, :2] + boxes[:, 2:]).max(axis=0)
  return np.concatenate([low, high - low]).astype(np.float32)


def join(
  names: Sequence[str],
  tables: Sequence[base.Table],
  split: str = "auto",
  validation_fraction: float = 0.05,
) -> base.Table:
  """One table of the rows of several; unknown findings are those a source lacks.

  A source without a published split is split by a hash of its patients, unless `split`
  is `official`; one without published validation patients gets some where another has
  them. Patients of two sources are never the same. An image whose name an
  earlier source has gets its own source's name in front.

  Args:
    names: of the sources, all different.
  """
  vocabulary = labels.distinct(name for t in tables for name in t.vocabulary)
  published = [table.official for table in tables if table.official is not None]
  if not any((official == "validation").any() for official in published):
    # They are chosen among all patients later.
    validation_fraction = 0.0
  taken: set[str] = set()
  parts = []
  for name, table in zip(names, tables, strict=True):
    ids = [f"{name}-{one}" if one in taken else one for one in table.id.tolist()]
    taken |= set(ids)
    table = with_vocabulary(table, {n: n for n in table.vocabulary}, vocabulary)
    parts.append(_with_ids(_with_split(name, table, split, validation_fraction), ids))
  patients = [
    f"{name}/{patient}"
    for name, table in zip(names, tables, strict=True)
    for patient in table.patient.tolist()
  ]
  has_reports = any(part.report is not None for part in parts)
  has_split = all(part.official is not None for part in parts)
  return base.Table(
    vocabulary=vocabulary,
    origin=" and ".join(part.origin for part in parts),
    id=np.concatenate([part.id for part in parts]),
    patient=base.patient_numbers(patients),
    findings=np.concatenate([part.findings for part in parts]),
    image=[path for part in parts for path in part.image],
    age=np.concatenate([part.age for part in parts]),
    sex=np.concatenate([part.sex for part in parts]),
    view=np.concatenate([part.view for part in parts]),
    boxes={key: value for part in parts for key, value in part.boxes.items()},
    expert={key: value for part in parts for key, value in part.expert.items()},
    expert_test_ids=frozenset().union(*(part.expert_test_ids for part in parts)),
    official=_concatenated(parts) if has_split else None,
    split_note="; ".join(part.split_note for part in parts),
    num_unlisted=sum(part.num_unlisted for part in parts),
    source=np.repeat(np.arange(len(parts)), list(map(len, parts))).astype(np.int8),
    notes=tuple(note for part in parts for note in part.notes),
    report={key: value for part in parts for key, value in (part.report or {}).items()}
    if has_reports
    else None,
  )


def choose_views(table: base.Table, views: Sequence[str]) -> base.Table:
  """The rows of some of `base.VIEWS`; the view of lateral images becomes unknown.

  Raises:
    InputError: no row is left.
  """
  kept = np.isin(table.view, [base.VIEWS[name] for name in views])
  counts = {
    name: int(np.count_nonzero(table.view == code)) for name, code in base.VIEWS.items()
  }
  if not kept.any():
    raise errors.InputError(
      f"config.data.views={','.join(views)} leaves none of {len(table)} images",
      ", ".join(f"{name} ({count})" for name, count in counts.items() if count),
    )
  if not kept.all():
    left_out = ", ".join(
      f"{count} {name}" for name, count in counts.items() if count and name not in views
    )
    note = f"config.data.views leaves out {left_out} of {len(table)} images"
    table = take(table, np.flatnonzero(kept))
    table = dataclasses.replace(table, notes=(*table.notes, note))
  view = np.where(table.view == base.LATERAL, -1, table.view).astype(np.int8)
  return dataclasses.replace(table, view=view)


def take(table: base.Table, rows: np.ndarray) -> base.Table:
  """Some rows of a table."""
  fields = ("id", "patient", "findings", "age", "sex", "view")
  return dataclasses.replace(
    table,
    **{name: getattr(table, name)[rows] for name in fields},
    image=[table.image[row] for row in rows.tolist()],
    official=None if table.official is None else table.official[rows],
    source=None if table.source is None else table.source[rows],
  )


def _check_ids(table: base.Table) -> None:
  unique, counts = np.unique(table.id, return_counts=True)
  twice = unique[counts > 1]
  if twice.size:
    raise errors.InputError(
      f"{table.origin} names {twice.size} images twice, first {twice[0]}",
      "one row an image",
    )


def _renamed(vocabulary: Sequence[str], renamed: Mapping[str, str]) -> dict[str, str]:
  """Every finding -> its name in the common vocabulary."""
  by_spelling = {labels.plain(name): target for name, target in renamed.items()}
  return {name: by_spelling.get(labels.plain(name), name) for name in vocabulary}


def _choose(table: base.Table, chosen: Sequence[str]) -> base.Table:
  """The table with some of its findings, in the order and spelling of `chosen`."""
  targets = dict.fromkeys(table.vocabulary, "")
  for name in chosen:
    targets[table.vocabulary[labels.finding_index(name, table.vocabulary)]] = name
  return with_vocabulary(table, targets, chosen)


def _with_split(
  name: str, table: base.Table, split: str, validation_fraction: float
) -> base.Table:
  """A table of several, with the split that it has alone."""
  official, note = table.official, table.split_note
  if official is None:
    if split == "official":
      return table
    official = np.where(splits.hashed_test(table.patient), "test", "train")
    note = "by patient hash, as it has no published split"
  if not (official == "validation").any():
    official = official.astype("U10")
    train = np.flatnonzero(official == "train")
    held_out = splits.hashed_validation(table.patient[train], validation_fraction)
    official[train[held_out]] = "validation"
  return dataclasses.replace(table, official=official, split_note=f"{name}: {note}")


def _with_ids(table: base.Table, ids: Sequence[str]) -> base.Table:
  old = table.id.tolist()
  new = dict(zip(old, ids, strict=True))

  def moved(by_id: Mapping) -> dict:
    return {new.get(key, key): value for key, value in by_id.items()}

  return dataclasses.replace(
    table,
    id=np.array(ids, np.str_),
    boxes=moved(table.boxes),
    expert=moved(table.expert),
    expert_test_ids=frozenset(new.get(key, key) for key in table.expert_test_ids),
    report=None if table.report is None else moved(table.report),
  )


def _concatenated(parts: Sequence[base.Table]) -> np.ndarray:
  official = [part.official for part in parts if part.official is not None]
  return np.concatenate(official)
