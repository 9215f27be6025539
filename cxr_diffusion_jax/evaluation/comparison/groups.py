"""Groups of images, by finding, sex, age and view, compared on equal terms.

figure of a group - the same of as many real images    (what the model adds)
  - that of the largest group of its kind               (whether groups differ)

A distance depends on the number of images, so groups are compared by what they have
above their own floor. Both differences are paired by patient; they are exploratory, and
of the trained runs that were measured.
"""

from collections.abc import Sequence
import dataclasses

import numpy as np

from cxr_diffusion_jax.evaluation.comparison import pooling
from cxr_diffusion_jax.evaluation.measurement import Measurement

Ends = tuple[float, float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class GroupFigure:
  """A figure of one group, of one path.

  Attributes:
    num: images, as many generated as real.
    above: figure minus that of real images, and its interval.
    against: the largest group of the kind; "" for itself.
    difference: `above` minus that of the group `against`, and its interval.
  """

  metric: str
  judge: str
  group: str
  num: int
  above: float
  interval: Ends
  against: str = ""
  difference: float | None = None
  difference_interval: Ends | None = None


def figures(
  measurements: Sequence[Measurement], real: Sequence[Measurement]
) -> list[GroupFigure]:
  """All groups that both kinds of images have as many of, in order."""
  floors = {one.key: one for one in real}
  spreads: dict[tuple[str, str, str], dict[str, tuple[int, pooling.Spread]]] = {}
  for one in measurements:
    floor = floors.get(one.key)
    if one.of == "generated" and one.group != "all" and floor and floor.num == one.num:
      spread = _above(one, floor)
      if spread is not None:
        kind = one.metric, one.judge, one.group.split(":")[0]
        spreads.setdefault(kind, {})[one.group] = one.num, spread
  table = []
  for (metric, judge, _), of_kind in spreads.items():
    largest = max(of_kind, key=lambda group: of_kind[group][0])
    for group, (num, spread) in of_kind.items():
      figure = GroupFigure(
        metric=metric,
        judge=judge,
        group=group,
        num=num,
        above=spread.value,
        interval=pooling.interval(spread),
      )
      if group != largest:
        base = of_kind[largest][1]
        figure = dataclasses.replace(
          figure,
          against=largest,
          difference=spread.value - base.value,
          difference_interval=pooling.difference(spread, base),
        )
      table.append(figure)
  return table


def _above(one: Measurement, floor: Measurement) -> pooling.Spread | None:
  """The figure minus its floor; None where either has no value or no interval."""
  if one.value is None or floor.value is None:
    return None
  if not one.deviations or not floor.deviations:
    return None
  return pooling.Spread(
    value=one.value - floor.value,
    deviations=np.subtract(one.deviations, floor.deviations),
    degrees=min(one.degrees, floor.degrees),
  )
