"""From an autoencoder's folder to samples: prepared, trained, resumed, sampled."""

from collections.abc import Callable
import dataclasses
import json
import pathlib
import re
import shutil

import jax
import numpy as np
import pytest

from cxr_diffusion_jax.evaluation.comparison import row_losses
from cxr_diffusion_jax.run import card as card_lib
from cxr_diffusion_jax.run import run as run_lib
from cxr_diffusion_jax.sampling import conditions, request
from cxr_diffusion_jax.sampling import sample as sampling


@pytest.fixture(scope="module")
def place(tmp_path_factory, make_autoencoder) -> pathlib.Path:
  """Holds the autoencoder `vae`, the records and the runs."""
  folder = tmp_path_factory.mktemp("latent")
  make_autoencoder(folder / "vae")
  return folder


@pytest.fixture
def flags(small_dit, repository, place) -> Callable[..., list[str]]:
  """The small run on latents: `flags(workdir, train__num_steps=2)`."""
  labels = dataclasses.replace(
    small_dit, path="findings", records_dir=place / "records"
  )

  def make(workdir: pathlib.Path | None = None, **changes) -> list[str]:
    changes = {"codec__folder": place / "vae", "train__num_steps": 4, **changes}
    given = labels.changes(codec__scaling_factor="measured", **changes)
    del given["codec.levels"]
    results = [f"--config={repository}/configs/findings.py:kl_dit_tiny"]
    results += [f"--config.{name}={value}" for name, value in given.items()]
    return [*results, f"--workdir={workdir}"] if workdir else results

  return make


@pytest.fixture(scope="module")
def workdir(place) -> pathlib.Path:
  """Of the run that the first test trains."""
  return place / "whole"


def test_latent_path_runs_from_preparation_to_samples(flags, workdir, run_main):
  prepared = run_main("prepare", *flags())
  assert prepared.code == 0, prepared.err
  assert re.search(r"latents, [\d.,]+ images/s.*: 64 of 64", prepared.err)
  trained = run_main("main", *flags(workdir))
  assert trained.code == 0, trained.err
  assert "latents" not in trained.err
  _, card = card_lib.read(workdir)
  std = card.statistics["latent"]["std"]
  run = run_lib.open_run(workdir)
  assert run.recipe.denoiser.codec.scaling_factor == 1 / std
  content = json.loads((workdir / "reconstruction.json").read_text())
  assert content["split"] == "test"
  assert not content["exact"]
  assert np.isfinite(content["psnr"])
  builder = conditions.ConditionBuilder(run=run)
  asked = builder.build(request.Request(findings=("Effusion",)), 1)
  images = sampling.sample(run, asked, num=2).images
  assert images.shape == (2, 32, 32, 1)
  assert images.std() > 0
  losses = row_losses.Model(run=run).losses("train", np.array([0, 2]), None)
  assert losses.shape == (2, row_losses.NUM_TIMES)
  assert np.isfinite(losses).all()


def test_latent_path_resumes_bit_for_bit_wherever_the_autoencoder_is(
  flags, place, workdir, run_main
):
  parts = shutil.copytree(workdir, place / "parts")
  shutil.rmtree(parts / "checkpoints" / "4")
  copy = shutil.copytree(place / "vae", place / "copy")
  result = run_main("main", *flags(parts, codec__folder=copy))
  assert result.code == 0, result.err
  assert "finished at step 4" in result.out
  runs = [run_lib.open_run(one) for one in (workdir, parts)]
  for one, other in zip(
    *(jax.tree.leaves(run.ema_params) for run in runs), strict=True
  ):
    np.testing.assert_array_equal(one, other)


def test_latent_path_refuses_another_autoencoder_and_samples_with_its_own(
  flags, place, workdir, run_main, make_autoencoder, tmp_path
):
  results, columns = place / "vae", sorted(place.rglob("latent-*"))
  moved = shutil.move(results, tmp_path / "moved")
  try:
    make_autoencoder(results, seed=1)
    complaint = run_main("main", *flags(workdir, train__num_steps=5)).complaint
    run = run_lib.open_run(workdir)
  finally:
    shutil.rmtree(results)
    shutil.move(moved, results)
  assert f"config.codec.folder={results} holds KL autoencoder f2 z2" in complaint
  assert "whose latents the run learned from" in complaint
  assert run.recipe.autoencoder.description == run.card.latents["latent"].encoder
  # Refused before the images were encoded again.
  assert sorted(place.rglob("latent-*")) == columns


def test_latent_path_refuses_an_indivisible_size(flags, run_main, tmp_path):
  complaint = run_main("main", *flags(tmp_path / "run", data__image_size=33)).complaint
  assert "image size 33 with an autoencoder of factor 2" in complaint
