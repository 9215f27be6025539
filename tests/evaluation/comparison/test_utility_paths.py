"""Which generated training images are requested, and how classifiers are trained."""

import numpy as np

from cxr_diffusion_jax.evaluation.comparison import path_assessment, utility_paths


def test_balanced_rows_show_each_finding_equally_often():
  # Rows 0 to 5 have the first finding, 6 the second, 7 to 19 none; 20 is not usable.
  findings = np.zeros((21, 3), bool)
  findings[:6, 0], findings[6, 1], findings[20, 2] = True, True, True
  rows = utility_paths.balanced_rows(findings, np.arange(20), 30)
  assert findings[rows].sum(axis=0).tolist() == [10, 10, 0]
  assert (~findings[rows].any(axis=1)).sum() == 10
  # Any beginning is balanced too, and rows repeat only where they must.
  assert findings[rows[:9]].sum(axis=0).tolist() == [3, 3, 0]
  assert len(np.unique(rows[findings[rows, 0]])) == 6
  assert len(np.unique(rows[~findings[rows].any(axis=1)])) == 10
  assert len(utility_paths.balanced_rows(findings, np.arange(20), 31)) == 31


def test_balanced_rows_take_no_unknown_row_for_one_without_findings():
  findings = np.zeros((9, 2), np.float32)
  findings[:3, 0], findings[3:7, 1] = 1, np.nan
  rows = utility_paths.balanced_rows(findings, np.arange(9), 20)
  assert {*rows.tolist()} == {0, 1, 2, 7, 8}
  findings[:] = np.nan
  assert len(np.unique(utility_paths.balanced_rows(findings, np.arange(9), 9))) == 9


def test_settings_of_utility_follow_the_options():
  options = path_assessment.Options(
    utility_steps=70, utility_ratios=(1, 5), classifier_patience=2
  )
  settings = utility_paths.settings_of(options, 64, 1000)
  assert (settings.network.num_steps, settings.network.patience) == (70, 2)
  assert settings.network.stem_stride == 4
  assert settings.arms[3] == "real_and_synthetic_5x"
  assert options.classifier_changes(options.probe_steps) == {"patience": 2}
  assert path_assessment.Options().classifier_changes(0) == {}
