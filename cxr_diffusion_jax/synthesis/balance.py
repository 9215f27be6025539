"""Balanced plans: findings equally often, each with all kinds of persons.

labels --finding, or none--> rows --sex, age band, view--> cells of persons
num / findings --evenly over the cells, as far as each has room--> quotas
"""

from collections import Counter
from collections.abc import Mapping, Sequence

from absl import logging
import numpy as np

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.data import labels as labels_lib
from cxr_diffusion_jax.data.image_sets.image_set import AGE_BANDS, SEXES, VIEWS
from cxr_diffusion_jax.synthesis import plan as plan_lib

# Sex, (youngest, oldest) and view of a quota.
_Person = tuple[str, tuple[int, int] | None, str]


def balanced(
  labels: Mapping[str, np.ndarray],
  vocabulary: Sequence[str],
  num: int,
  *,
  of_images: bool = False,
) -> plan_lib.Plan:
  """Plans equally many images of each finding alone, and of No Finding.

  Those of one finding are divided evenly over sexes, `AGE_BANDS` and views, as far as
  some labelled image with this finding is of them.

  Args:
    labels: findings [n k], 1 present, 0 absent, nan unknown; sex and view [n], -1
      unknown; age [n] years, nan unknown.
    of_images: whether conditions are made from the labelled images. Then only those
      count that show no other finding, and a combination gets no more quota than lets
      all images of the finding be used equally often.

  Raises:
    errors.InputError: no image has a finding or none, or `num` is too small.
  """
  groups: dict[tuple[str, ...], Mapping[_Person, int]] = {}
  lacking: list[str] = []
  for k, findings in enumerate((*((name,) for name in vocabulary), ())):
    if findings and not of_images:
      rows = np.flatnonzero(np.asarray(labels["findings"])[:, k] > 0.5)
    else:
      shown = plan_lib.showing(labels["findings"], findings, vocabulary)
      rows = np.flatnonzero(shown)
    if len(rows):
      groups[findings] = _people(labels, rows)
    else:
      lacking.append(findings[0] if findings else labels_lib.NO_FINDING)
  if lacking:
    logging.warning("no labelled image, so no quota: %s", ", ".join(lacking))
  if num < len(groups) or not groups:
    raise errors.InputError(
      f"{num} images for a balanced plan of {len(groups)} findings",
      "at least one image of each finding, and labelled images to plan by",
    )
  used: Counter[object] = Counter()
  quotas = []
  for (findings, people), share in zip(
    groups.items(), plan_lib.shares(num, len(groups)), strict=True
  ):
    uses = -(-share // sum(people.values()))
    room = {
      person: uses * rows if of_images else share for person, rows in people.items()
    }
    quotas += [
      plan_lib.Quota(num=count, findings=findings, sex=sex, ages=ages, view=view)
      for (sex, ages, view), count in _spread(room, share, used).items()
    ]
  return plan_lib.Plan(quotas=tuple(quotas))


def _people(
  labels: Mapping[str, np.ndarray], rows: np.ndarray
) -> Mapping[_Person, int]:
  """Combinations of sex, age band and view of some rows, sorted, with their rows.

  An attribute that no row knows is left open; else rows that lack it do not count.
  """
  ages = np.asarray(labels["age"], np.float64)
  sexes = [SEXES[code] if code >= 0 else "" for code in labels["sex"][rows]]
  views = [VIEWS[code] if code >= 0 else "" for code in labels["view"][rows]]
  bands = [_band(age, ages) for age in ages[rows]]
  columns = (sexes, bands, views)
  needed = [any(column) for column in columns]
  people: Counter[_Person] = Counter(
    person
    for person in zip(*columns, strict=True)
    if all(value or not must for value, must in zip(person, needed, strict=True))
  )
  # No row may know all attributes that some row knows.
  anybody: _Person = ("", None, "")
  known = people or Counter({anybody: len(rows)})
  return {person: known[person] for person in sorted(known, key=str)}


def _band(age: float, ages: np.ndarray) -> tuple[int, int] | None:
  """The band of an age, no wider than the ages in it that occur."""
  for low, high in AGE_BANDS:
    if low <= age < high:
      inside = ages[(ages >= low) & (ages < high)]
      return int(inside.min()), int(inside.max())
  return None


def _spread(
  room: Mapping[_Person, int], num: int, used: Counter[object]
) -> dict[_Person, int]:
  """Divides images evenly over persons with room for them.

  The remainder goes, one each, to persons whose attributes are rarest in `used`, which
  is updated.
  """
  counts: Counter[_Person] = Counter()
  while (remaining := num - counts.total()) > 0:
    free = [person for person in room if counts[person] < room[person]]
    if remaining >= len(free):
      share = remaining // len(free)
      added = {person: min(share, room[person] - counts[person]) for person in free}
      _add(added, counts, used)
      continue
    for _ in range(remaining):
      rarest = min(free, key=lambda one: sum(used[pair] for pair in enumerate(one)))
      free.remove(rarest)
      _add({rarest: 1}, counts, used)
  return {person: counts[person] for person in room if counts[person]}


def _add(
  added: Mapping[_Person, int], counts: Counter[_Person], used: Counter[object]
) -> None:
  counts.update(added)
  for person, count in added.items():
    for pair in enumerate(person):
      used[pair] += count
