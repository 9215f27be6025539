"""Membership by the loss: what a reference removes, no leak, and too few patients."""

import numpy as np
import pytest

from cxr_diffusion_jax.evaluation.metrics import loss_membership

NUM = 400
PATIENTS = (
  np.array([f"seen {n}" for n in range(NUM)]),
  np.array([f"unseen {n}" for n in range(NUM)]),
)

# How much the mean loss differs between times.
SCALES = np.geomspace(0.01, 10, 8)


def _losses(seed: int, memorised: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Losses of seen and of unseen images [n 8], and of a model that saw none [2n 8]."""
  rng = np.random.default_rng(seed)
  difficulty = 1 + 0.3 * rng.normal(size=(2 * NUM, 1))
  noise = 0.02 * rng.normal(size=(2, 2 * NUM, 8))
  own, reference = SCALES * (difficulty + noise)
  own[:memorised] -= 0.2 * SCALES
  return own[:NUM], own[NUM:], reference


def _measure(seen, unseen):
  figures = loss_membership.measure(seen, unseen, PATIENTS, judge="denoising loss")
  return {one.metric: one for one in figures}


def test_measure_detects_five_percent_of_memorised_patients():
  seen, unseen, reference = _losses(0, memorised=NUM // 20)
  blind = _measure(seen, unseen)
  assert blind["loss_tpr"].low < 0.01
  calibrated = _measure(seen - reference[:NUM], unseen - reference[NUM:])
  assert calibrated["loss_tpr"].value == pytest.approx(0.06, abs=0.012)
  assert calibrated["loss_tpr"].low > 0.01
  assert calibrated["loss_tpr"].patients == calibrated["loss_tpr"].real_patients == NUM
  # An average hardly moves.
  assert calibrated["loss_auroc"].value < 0.56


def test_measure_reports_no_leak_without_one():
  leaks = 0
  for seed in range(1, 6):
    seen, unseen, reference = _losses(seed)
    for sides in ((seen, unseen), (seen - reference[:NUM], unseen - reference[NUM:])):
      figures = _measure(*sides)
      leaks += figures["loss_tpr"].low > 0.01
      leaks += figures["loss_auroc"].low > 0.5
  assert leaks <= 2


def test_scores_weight_all_times_equally():
  losses = SCALES * np.random.default_rng(0).normal(size=(500, 8))
  scores, _ = loss_membership.scores(losses, losses)
  assert scores.mean() == pytest.approx(0, abs=1e-9)
  assert scores.std() == pytest.approx(8**-0.5, rel=0.1)
  # A time without any spread.
  constant = np.ones((30, 2))
  assert loss_membership.scores(constant - 1, constant)[0].tolist() == [-1] * 30


def test_measure_of_too_few_patients_states_a_reason():
  seen, unseen, _ = _losses(0)
  patients = (PATIENTS[0], PATIENTS[1][:100])
  tpr, auroc = loss_membership.measure(seen, unseen[:100], patients, judge="loss")
  assert tpr.reason == "400 training and 100 validation patients; expected 300 of each"
  assert auroc.value is not None
