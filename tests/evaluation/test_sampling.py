"""Samples of a run that is made by hand: order, conditions, numbers, files."""

import json

import jax
import numpy as np
from PIL import Image
import pytest

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.evaluation import sampling
from cxr_diffusion_jax.preparation import dataset as dataset_lib
from cxr_diffusion_jax.training import experiment as experiment_lib


@pytest.fixture
def run(small, tmp_path) -> sampling.Run:
  """An untrained run on the small dataset."""
  experiment = experiment_lib.build(small.config())
  dataset = dataset_lib.prepare(experiment.data, experiment.conditioner.needs)
  return sampling.Run(
    workdir=tmp_path / "by_hand",
    experiment=experiment,
    dataset=dataset,
    objective=experiment.make_objective(
      experiment.make_codec(dataset.description["statistics"])
    ),
    ema_params=experiment.init_fn(jax.random.key(0)),
    checkpoint_step=3,
  )


def test_conditions_are_spread_over_the_split(run):
  made = sampling.sample(run, num=6, split="test", per_condition=2, seed=5)
  ids = [str(name) for name in run.dataset.ids("test")]
  names = [entry["image_id"] for entry in made.entries]
  assert names == [ids[0], ids[0], ids[4], ids[4], ids[9], ids[9]]
  np.testing.assert_array_equal(made.references[0], made.references[1])
  assert np.abs(made.images[0].astype(int) - made.images[1]).mean() > 1
  assert "stand-in elixrc" in made.title
  assert "step 3" in made.title


def test_more_images_than_conditions_begin_again(run):
  count = len(run.dataset.ids("validation"))
  changes = {"sampler": "ddim", "guidance": 1.0, "num_steps": 3}
  made = sampling.sample(run, num=count + 1, split="validation", changes=changes)
  assert {**made.settings, **changes} == made.settings
  names = [entry["image_id"] for entry in made.entries]
  assert names[0] == names[count]
  # The same condition with other noise.
  assert (made.images[0] != made.images[count]).any()


def test_named_images_are_found_in_any_split(run):
  wanted = (str(run.dataset.ids("test")[3]), f"{run.dataset.ids('train')[7]}.png")
  made = sampling.sample(run, num=2, split="test", image_ids=wanted)
  assert [entry["image_id"] for entry in made.entries] == [
    wanted[0],
    wanted[1].removesuffix(".png"),
  ]
  source = run.dataset.source("train")
  grey = np.round((source.batch([7])["image"][0] + 1) * 127.5)
  np.testing.assert_array_equal(made.references[1], grey)


def test_writing_again_leaves_nothing_of_the_former(run, tmp_path):
  out = tmp_path / "out"
  sampling.write(sampling.sample(run, num=4, split="test"), out)
  sampling.write(
    sampling.sample(run, num=3, split="test", per_condition=2, seed=9), out
  )
  told = json.loads((out / "samples.json").read_text())
  assert [entry["seed"] for entry in told["samples"]] == [9, 9, 9]
  assert len(list((out / "images").iterdir())) == 3
  assert len(list((out / "references").iterdir())) == 2
  for entry in told["samples"]:
    with Image.open(out / entry["file"]) as image:
      assert (image.size, image.mode) == ((32, 32), "L")


def test_a_folder_without_a_checkpoint_is_refused(run, small, tmp_path):
  (tmp_path / "config.json").write_text(json.dumps(run.experiment.config))
  (tmp_path / "dataset.json").write_text(json.dumps(run.dataset.description))
  with pytest.raises(errors.InputError, match="no checkpoint in"):
    sampling.open_run(tmp_path)
