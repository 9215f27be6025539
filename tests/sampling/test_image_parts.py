"""What is generated to be judged is made once, in parts, the same for every path."""

import dataclasses

import numpy as np
import pytest

from cxr_diffusion_jax.sampling import image_parts


@pytest.fixture
def calls(monkeypatch) -> list[int]:
  """Rows of each call; an image's first pixel tells its number, the next its seed."""
  rows = []

  def generate(self, params, fields, *, seed, numbers, batch_size):
    del self, params, seed
    rows.append(len(numbers))
    assert len(numbers) % batch_size == 0
    assert all(len(value) == len(numbers) for value in fields.values())
    images = np.zeros((len(numbers), 8, 8, 1), np.uint8)
    images[:, 0, 0, 0] = fields["findings"].sum(axis=-1)
    images[:, 0, 1, 0] = numbers
    return images

  monkeypatch.setattr(image_parts.generate_lib.Generator, "generate", generate)
  monkeypatch.setattr(image_parts, "PART_SIZE", 4)
  return rows


@pytest.fixture
def generator(run_of, tmp_path):
  return image_parts.prepare(run_of("findings"), tmp_path, batch_size=4, weights="w")


@pytest.fixture
def ids(run_of) -> list[str]:
  return [str(name) for name in run_of("findings").dataset.ids("train")[:10]]


def test_generate_gives_each_image_its_condition_and_number(
  generator, ids, calls, run_of
):
  images = image_parts.generate(generator, ids)
  assert len(images) == 10
  assert calls == [4, 4, 4]
  dataset = run_of("findings").dataset
  asked = [dataset.source("train").batch([i])["findings"].sum() for i in range(10)]
  assert [image[0, 0, 0] for image in images] == asked
  assert [image[0, 1, 0] for image in images] == list(range(10))
  with pytest.raises(IndexError):
    images[10]


def test_generate_continues_and_makes_nothing_twice(generator, ids, calls):
  image_parts.generate(generator, ids[:8])
  image_parts.generate(generator, ids[:8])
  assert calls == [4, 4]
  image_parts.generate(generator, ids)
  assert calls == [4, 4, 4]


def test_generate_remakes_only_an_interrupted_part(generator, ids, calls):
  image_parts.generate(generator, ids)
  part = generator.folder / "images" / "part_00001.npz"
  part.rename(part.with_suffix(".partial"))
  image_parts.generate(generator, ids)
  assert calls == [4, 4, 4, 4]


def test_generate_resumes_within_a_part(generator, ids, calls, monkeypatch):
  whole = [*image_parts.generate(generator, ids)]
  monkeypatch.setattr(image_parts.checked_files, "SAVE_PERIOD", 0)
  small = dataclasses.replace(generator, folder=generator.folder / "b", batch_size=2)
  inner, generate = [], image_parts.generate_lib.Generator.generate

  def killed(self, *inputs, **more):
    inner.append(0)
    if len(inner) == 4:
      raise KeyboardInterrupt
    return generate(self, *inputs, **more)

  monkeypatch.setattr(image_parts.generate_lib.Generator, "generate", killed)
  with pytest.raises(KeyboardInterrupt):
    image_parts.generate(small, ids)
  # Three of five batches are on disk.
  resumed = image_parts.generate(small, ids)
  assert len(inner) == 4 + 2
  np.testing.assert_array_equal([*resumed], whole)
  # Damage is generated again.
  (small.folder / "images/part_00001.npz").write_bytes(b"no zip")
  np.testing.assert_array_equal([*image_parts.generate(small, ids)], whole)
  assert len(inner) == 6 + 2


def test_generate_replaces_images_of_other_conditions_or_noise(generator, ids, calls):
  image_parts.generate(generator, ids[:4])
  noise = [image[0, 1, 0] for image in image_parts.generate(generator, ids[4:8])]
  again = image_parts.generate(generator, ids[4:8], first=100)
  assert calls == [4, 4, 4]
  assert noise == [0, 1, 2, 3]
  assert [image[0, 1, 0] for image in again] == [100, 101, 102, 103]


def test_prepare_gives_each_setting_its_own_folder(run_of, tmp_path):
  run = run_of("findings")

  def folder(**changes):
    return image_parts.prepare(run, tmp_path, **{"weights": "w", **changes}).folder

  assert folder() == folder(batch_size=2)
  others = [
    folder(seed=1),
    folder(weights="v"),
    folder(changes={"guidance": 3.0}),
    folder(changes={"num_steps": 7}),
  ]
  assert len({folder(), *others}) == 5
  assert (folder() / image_parts.DESCRIPTION).is_file()


def test_weights_digest_distinguishes_runs(run_of):
  run = run_of("findings")
  other = dataclasses.replace(run, ema_params={"bias": np.ones(3)})
  assert image_parts.weights_digest(run) == image_parts.weights_digest(run)
  assert image_parts.weights_digest(run) != image_parts.weights_digest(other)
