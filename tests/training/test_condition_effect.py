"""After training a condition decides what an image shows, and the noise does not.

A tree of 32-pixel pictures: Effusion is a bright square on the left, Mass one on the
right. A small network learns that in 130 steps; with prompts, of many
phrasings and from a text encoder of 60 steps, it takes longer and is less sure.
"""

import dataclasses
import functools
import pathlib

import numpy as np
from PIL import Image
import pytest

from cxr_diffusion_jax.encoders.clip import small as clip_small
from cxr_diffusion_jax.encoders.standin import training as standin
from cxr_diffusion_jax.run import dataset as dataset_lib
from cxr_diffusion_jax.sampling import conditions as conditions_lib
from cxr_diffusion_jax.sampling import generate as generate_lib
from cxr_diffusion_jax.sampling.request import Request
from cxr_diffusion_jax.training import denoiser_trainer, loop
from cxr_diffusion_jax.training import experiment as experiment_lib
from tests.fixtures.runs import make_run

LABELS = ("No Finding", "Effusion", "Mass", "Effusion|Mass")
HEADER = "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Sex"


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
  """The tree; image 4 i + k has the k-th of `LABELS`."""
  root = tmp_path_factory.mktemp("squares") / "tree"
  (root / "original").mkdir(parents=True)
  rng = np.random.default_rng(0)
  lines = [f"{HEADER},View Position"]
  for number in range(320):
    label = LABELS[number % 4]
    pixels = rng.integers(60, 90, (32, 32), np.uint8)
    pixels[8:24, 4:12] += 140 * np.uint8("Effusion" in label)
    pixels[8:24, 20:28] += 140 * np.uint8("Mass" in label)
    name = f"{number:08d}_000.png"
    Image.fromarray(pixels).save(root / "original" / name)
    lines.append(f"{name},{label},0,{number},50,M,PA")
  (root / "Data_Entry_2017.csv").write_text("\n".join([*lines, ""]))
  return root


def _seen(images: np.ndarray) -> np.ndarray:
  """Whether each image [n 32 32 1] shows the left and the right square: [n 2]."""
  middle = images[:, 10:22, :, 0].astype(float)
  return (
    np.stack(
      [middle[:, :, 6:10].mean(axis=(1, 2)), middle[:, :, 22:26].mean(axis=(1, 2))],
      axis=1,
    )
    > 140
  )


# Ends that overlap follow prompts later than after 150 steps.
DIT = {
  "model__depth": 2,
  "model__width": 48,
  "model__stem": "linear",
  "model__head": "linear",
}
UNET = {"model__block_channels": (16,)}


@pytest.mark.parametrize(
  ("path", "size", "network", "num_steps", "share"),
  [
    ("clip_text", "dit_tiny", DIT, 150, 0.6),
    ("findings", "tiny", UNET, 130, 0.9),
  ],
)
def test_condition_effect_is_larger_than_that_of_noise(
  path, size, network, num_steps, share, small, squares, monkeypatch
):
  # Squares need a small image encoder.
  sizes = clip_small.SmallClip(image_size=32, image_layers=1)
  small_settings = functools.partial(standin.TrainSettings, sizes=sizes)
  monkeypatch.setattr(standin, "TrainSettings", small_settings)
  small_recipe = dataclasses.replace(
    small,
    path=path,
    size=size,
    root=squares,
    records_dir=squares.parent / "records",
  )
  experiment = experiment_lib.build(
    small_recipe.config(
      data__standin=True,
      data__standin_steps=60,
      data__split="hash",
      # Prompts that leave out findings take longer to learn from.
      data__captions=1,
      codec__levels=2,
      optimizer__learning_rate=4e-3,
      train__num_steps=num_steps,
      train__batch_size=16,
      train__ema_decay=0.97,
      train__log_every=1000,
      train__checkpoint_every=1000,
      sample__num_steps=8,
      sample__guidance=2.0,
      **network,
    )
  )
  dataset = dataset_lib.prepare(experiment.data, experiment.recipe.conditioner.needs)
  trainer = denoiser_trainer.make(experiment, dataset)
  outcome = loop.train(trainer, squares.parent / path, writer=_Silent())
  # One test image of each label, of patients that training has never seen.
  ids = dataset.ids("test")
  chosen = [next(name for name in ids if int(name[:8]) % 4 == k) for k in range(4)]
  run = make_run(experiment, dataset, squares.parent / path)
  builder = conditions_lib.ConditionBuilder(run=run)
  asked = builder.build(Request(image_ids=tuple(chosen)), 4)
  wanted = np.array([["Effusion" in label, "Mass" in label] for label in LABELS])
  # Every condition with every one of four noises.
  crossed = asked.take(np.repeat(np.arange(4), 4))
  generated = generate_lib.make_generator(run.recipe).generate(
    outcome.state.ema_params, crossed.fields, seed=0, numbers=np.tile(np.arange(4), 4)
  )
  kept = (_seen(generated) == np.repeat(wanted, 4, axis=0)).all(axis=1)
  assert kept.mean() >= share
  # A square is a sixth of a picture and 140 grey levels brighter.
  of_noise = generated.reshape(4, 4, 32, 32).astype(float)
  assert np.abs(of_noise[0] - of_noise[3]).mean() > 30


class _Silent:
  """A metric writer that forgets."""

  def write_scalars(self, step: int, scalars: dict[str, float]) -> None:
    pass

  def flush(self) -> None:
    pass
