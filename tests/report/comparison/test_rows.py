"""Rows of the tables: one a figure, with its title and meaning."""

import pytest

from cxr_diffusion_jax.report.comparison import rows
from tests.fixtures import comparisons


def test_build_refuses_contradicting_measurements():
  same = comparisons.small(
    paths=[
      comparisons.path_of("a", comparisons.cmmd(1.0), comparisons.cmmd(1.0)),
      comparisons.path_of("b"),
    ]
  )
  assert len(rows.build(same)) == 1
  with pytest.raises(ValueError, match="measured twice"):
    rows.build(
      comparisons.small(
        paths=[
          comparisons.path_of("a", comparisons.cmmd(1.0), comparisons.cmmd(2.0)),
          comparisons.path_of("b"),
        ]
      )
    )
  with pytest.raises(ValueError, match="unknown paths: z"):
    rows.build(comparisons.compared(["z"], [], names=("a", "b")))


def test_rows_have_titles_and_meanings():
  assert rows.title("tstr_macro_auroc_difference") == "TSTR macro AUROC difference"
  assert rows.title("recall") == "Recall"
  assert "0.5" in rows.meaning("auroc")
  assert "ranked" in rows.meaning("average_precision")
  assert rows.meaning("of no such name") == ""
