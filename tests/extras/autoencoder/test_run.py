"""An autoencoder's run goes on bit for bit, on any mesh, and leaves a usable folder."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from cxr_diffusion_jax.extras.autoencoder import report as autoencoder_report
from cxr_diffusion_jax.extras.autoencoder import trainer as trainer_lib
from cxr_diffusion_jax.interop import diffusers
from cxr_diffusion_jax.parallel import sharding
from cxr_diffusion_jax.run import locks
from cxr_diffusion_jax.training import loop

ADVERSARY = {"discriminator__weight": 0.5, "discriminator__start_step": 1}


class Writer:
  """A CLU metric writer that keeps scalars: `scalars[step]`."""

  def __init__(self):
    self.scalars = {}

  def write_scalars(self, step, scalars):
    self.scalars.setdefault(step, {}).update(scalars)

  def write_images(self, step, named):
    assert set(named) == {"samples"}

  def flush(self):
    pass


@pytest.fixture
def train(build, images):
  """Trains with an adversary: `outcome, writer = train(folder, sample_every=4)`."""
  experiment = build(**ADVERSARY)
  programs = trainer_lib.make_programs(experiment)

  def run(folder, *, action=lambda step: None, sample_every=0):
    settings = dataclasses.replace(experiment.train, sample_every=sample_every)
    changed = dataclasses.replace(experiment, train=settings)
    writer = Writer()
    trainer = trainer_lib.AutoencoderTrainer(
      experiment=changed, dataset=images, programs=programs, workdir=folder
    )
    return loop.train(trainer, folder, writer=writer, actions=[action]), writer

  return run


def _assert_near(one, other, atol=0.0):
  for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
    np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=0, atol=atol)


def test_run_resumes_bit_for_bit_and_saves_its_network(train, build, images, tmp_path):
  whole, reported = train(tmp_path / "whole", sample_every=4)
  assert (tmp_path / "whole" / "samples" / "step_0000004.png").is_file()
  assert {"validation/psnr", "validation/reconstruction", "validation/kl"} < set(
    reported.scalars[4]
  )
  assert reported.scalars[1]["train/adversarial_weight"] == 0
  assert reported.scalars[2]["train/adversarial_weight"] > 0

  class Cut(Exception):
    pass

  def cut(step):
    if step == 3:
      raise Cut

  with pytest.raises(Cut):
    train(tmp_path / "cut", action=cut)
  resumed, writer_again = train(tmp_path / "cut")
  assert min(step for step in writer_again.scalars if step) == 3
  _assert_near(whole.state, resumed.state)
  assert whole.history == resumed.history

  # What a denoiser reads: the averages, and latents that it sees with unit variance.
  network, params = diffusers.load_autoencoder(tmp_path / "whole" / trainer_lib.FOLDER)
  _assert_near(params, whole.state.ema_params)
  source = images.source("train")
  image = source.batch(range(len(source)))["image"]
  encode = jax.jit(lambda p, x: network.apply({"params": p}, x, method="encode"))
  mean, logvar = encode(params, image)
  scaled = (np.asarray(mean) - network.shift_factor) * network.scaling_factor
  assert scaled.mean() == pytest.approx(0, abs=1e-3)
  spread = scaled.var() + (np.exp(logvar) * network.scaling_factor**2).mean()
  assert spread == pytest.approx(1, abs=1e-3)
  config = json.loads((tmp_path / "whole/autoencoder/config.json").read_text())
  assert config["_class_name"] == "AutoencoderKL"
  assert config["in_channels"] == 1


def test_run_of_the_command_trains_and_reports(
  changes, run_main, repository, tmp_path, caplog
):
  # What the run above has compiled.
  given = {name.replace("__", "."): value for name, value in ADVERSARY.items()}
  given = {**changes, **given, "loss.perceptual": "auto", "train.sample_every": 4}
  arguments = [
    f"--config={repository / 'configs' / 'autoencoder.py'}:phantom",
    f"--workdir={tmp_path}",
    *(f"--config.{name}={value}" for name, value in given.items()),
  ]
  done = run_main("train_autoencoder", *arguments)
  assert done.code == 0, done.err
  assert "so there is no perceptual loss" in caplog.text
  assert "no rFID" in caplog.text
  assert "finished at step 4; PSNR" in done.out
  assert "phantom images" in done.out
  reported = json.loads((tmp_path / autoencoder_report.FILE).read_text())
  assert (reported["step"], reported["factor"]) == (4, 2)
  assert 0 < reported["psnr"] < 60
  assert (tmp_path / locks.NAME).exists()
  assert "rfid" not in reported
  wrong = run_main("train_autoencoder", *arguments, "--config.loss.kl_weight=1e-3")
  assert "loss.kl_weight (1e-06 there, 0.001 here)" in wrong.complaint


def test_run_on_four_devices_equals_one(build, images, monkeypatch):
  # So that some of these small kernels are split too.
  monkeypatch.setattr(sharding, "FSDP_FLOOR", 100)
  batch = images.source("train").batch(range(8))
  start, states = None, []
  for mesh in ({}, {"num_devices": 4, "data": 2, "fsdp": 2}):
    given = {f"parallel__{name}": size for name, size in mesh.items()}
    experiment = build(model__block_channels=(4,), **given)
    programs = trainer_lib.make_programs(experiment)
    placed = sharding.place_batch(batch, experiment.mesh)
    start = jax.device_get(programs.init()) if start is None else start
    places = jax.tree.map(lambda leaf: leaf.sharding, programs.like())
    state, reported = programs.train_step(jax.device_put(start, places), placed)
    states.append(state.ema_params)
    assert np.isfinite(reported["loss"])
  assert any(not leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(state))
  _assert_near(*states, atol=1e-5)
