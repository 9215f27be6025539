"""Losses of rows: the same in any batch and from disk; references that do not fit."""

import dataclasses

import numpy as np
import pytest

from cxr_diffusion_jax import checked_files, errors
from cxr_diffusion_jax.evaluation.comparison import row_losses
from cxr_diffusion_jax.evaluation.metrics import nearness
from tests.fixtures.runs import save_run


def test_row_losses_do_not_depend_on_the_batch_and_are_cached(run_of, tmp_path):
  model = row_losses.Model(run=run_of("findings"))
  rows = np.array([1, 4, 7])
  losses = model.losses("train", rows, tmp_path, batch_size=2)
  assert losses.shape == (3, row_losses.NUM_TIMES)
  assert (losses > 0).all()
  (path,) = tmp_path.iterdir()
  np.savez(path, values=losses + 1)
  np.testing.assert_allclose(model.losses("train", rows, tmp_path), losses + 1)
  one = model.losses("train", rows[1:2], tmp_path, batch_size=2)
  np.testing.assert_allclose(one[0], losses[1], rtol=1e-4)


def test_measure_finds_no_leak_against_the_model_itself(run_of, tmp_path, monkeypatch):
  monkeypatch.setattr(nearness, "MIN_IMAGES", 1)
  run = run_of("findings")
  workdir = save_run(run, tmp_path / "run")
  figures = row_losses.measure(run, 1, tmp_path / "losses", reference=f"{workdir}@3")
  assert [one.metric for one in figures] == ["loss_tpr", "loss_auroc"]
  assert {one.judge for one in figures} == {"denoising loss, less that of run@3"}
  assert 0 < figures[0].num <= row_losses.PATIENTS_PER_CONDITION
  for path in (tmp_path / "losses").iterdir():
    assert np.isfinite(checked_files.read(path)).all()
  assert len(list((tmp_path / "losses").iterdir())) == 2


def test_measure_refuses_a_reference_of_other_records(run_of, tmp_path):
  run = run_of("findings")
  workdir = save_run(run, tmp_path / "run")
  card = dataclasses.replace(run.card, fingerprint="another")
  with pytest.raises(errors.InputError, match=r"reference run .* has other records"):
    row_losses.measure(
      dataclasses.replace(run, card=card), 1, tmp_path, reference=str(workdir)
    )
