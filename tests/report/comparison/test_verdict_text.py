"""Sentences about verdicts claim no more than the verdicts do."""

import re

import pytest

from cxr_diffusion_jax.report.comparison import files, rows, verdict_text
from tests.fixtures import comparisons


@pytest.mark.parametrize(
  ("best", "marked"),
  [
    (["a"], {"a": "best", "b": "", "c": ""}),
    (["a", "b"], {"a": "among best", "b": "among best", "c": ""}),
    (["a", "b", "c"], {"a": "", "b": "", "c": ""}),
  ],
)
def test_best_is_marked_if_another_path_is_worse(best, marked):
  differences = [("b", 0.5, 1.5), ("c", 1.0, 3.0)]
  comparison = comparisons.compared(best, differences)
  assert comparisons.marks(comparison) == marked
  text = files.markdown(comparison, rows.build(comparison))
  bold = re.findall(r"\*\*(\d)\.000\*\*", text)
  assert len(bold) == sum(bool(mark) for mark in marked.values())


@pytest.mark.parametrize(
  ("best", "differences", "kind", "sentence"),
  [
    (
      ["a"],
      [("b", 0.5, 1.5), ("c", 1.0, 3.0)],
      "one",
      "a is significantly better than b and c.",
    ),
    # The first is not known to be better than c: then nothing says that it is.
    (
      ["a"],
      [("b", 0.5, 1.5), ("c", -0.1, 3.0)],
      "one",
      "a alone has no path that is significantly better.",
    ),
    (
      ["a", "b"],
      [("b", -0.5, 1.5), ("c", 1.0, 3.0)],
      "some",
      "a and b are best and cannot be distinguished; c is significantly worse than some"
      " other path.",
    ),
    (
      ["a", "b", "c"],
      [("b", -0.5, 1.5), ("c", -0.1, 3.0)],
      "none",
      "no significant difference between a, b and c.",
    ),
  ],
)
def test_findings_claim_no_more_than_the_verdict(best, differences, kind, sentence):
  comparison = comparisons.compared(best, differences)
  (result,) = verdict_text.findings(rows.build(comparison))
  assert (result.kind, result.sentence) == (kind, sentence)


def test_overview_names_no_best_without_verdicts():
  comparison = comparisons.small(
    paths=[
      comparisons.path_of("a", comparisons.cmmd(1.0)),
      comparisons.path_of("b", comparisons.cmmd(9.0)),
    ]
  )
  result = verdict_text.findings(rows.build(comparison))
  assert result == []
  assert "nothing here says" in verdict_text.overview(result)
  assert set(comparisons.marks(comparison).values()) == {""}
