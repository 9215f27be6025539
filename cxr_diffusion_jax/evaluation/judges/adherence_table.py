"""What a classifier says of generated images, figure by figure.

Adherence (macro means and findings) -> [Measurement, ...]
"""

from collections.abc import Sequence
import dataclasses

import numpy as np

from cxr_diffusion_jax.evaluation.judges import adherence
from cxr_diffusion_jax.evaluation.measurement import Measurement


def to_measurements(
  figures: adherence.Adherence,
  names: Sequence[str],
  *,
  judge: str,
  standin: bool = False,
  of: str = "generated",
) -> list[Measurement]:
  """All figures, those of a finding in the group "finding: NAME", macro means in "all".

  Args:
    figures: of k findings.
    names: k of them.
    judge: the classifier, for people.
    standin: whether it stands in for a published one.
    of: "real" for images that are labelled, not asked for.
  """
  common = {"subject": "adherence", "judge": judge, "standin": standin, "of": of}
  made = []
  for metric in adherence.MACRO:
    common |= {"metric": metric, "num": figures.num_images}
    common["better"] = "lower" if metric == "false_alarms" else "higher"
    macro = figures.macro[metric]
    made.append(Measurement(**common, **dataclasses.asdict(macro)))
    for k, name in zip(range(len(figures.auroc)), names, strict=True):
      value = float(getattr(figures, metric)[k])
      low, high = (float(bound) for bound in figures.intervals[metric][k])
      known = np.isfinite(value)
      bounded = known and np.isfinite(low) and np.isfinite(high)
      made.append(
        Measurement(
          **common,
          group=f"finding: {name}",
          value=value if known else None,
          reason="" if known else _why(figures, k),
          low=low if bounded else None,
          high=high if bounded else None,
        )
      )
  return made


def _why(figures: adherence.Adherence, k: int) -> str:
  """Why a finding has no figure."""
  count = int(figures.num_positive[k])
  if count in (0, figures.num_images):
    which = "no" if count == 0 else "every"
    return f"{which} image of {figures.num_images} has it: one class alone"
  return "no threshold: one class alone in the validation images"
