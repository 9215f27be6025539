"""The anatomy regressor learns widths of bars, is saved, and refuses other images."""

import dataclasses

import numpy as np
import pytest

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.encoders.probes import (
  anatomy_regressor,
  probe_settings,
)

SETTINGS = probe_settings.ProbeSettings(
  patience=0,
  widths=(8,),
  norm_groups=2,
  num_steps=100,
  batch_size=16,
  learning_rate=2e-2,
)


def _bars(seed, count):
  """Images with a bar, its width, and its grey, which is known of every other one."""
  rng = np.random.default_rng(seed)
  images = rng.integers(40, 60, (count, 16, 16, 1), np.uint8)
  widths, levels = rng.integers(2, 12, count), rng.integers(120, 250, count)
  for i in range(count):
    images[i, 2:14, 2 : 2 + widths[i]] = levels[i]
  levels = np.where(np.arange(count) % 2, np.nan, levels)
  return images, {"width": widths / 16, "level": levels}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp("regressor")
  anatomy_regressor.train(*_bars(0, 96), folder, settings=SETTINGS)
  return folder


def _opened(folder, images=None, facts=None, progress=None):
  given = _bars(0, 96)
  return anatomy_regressor.train(
    given[0] if images is None else images,
    facts or given[1],
    folder,
    settings=SETTINGS,
    progress=progress or (lambda *_: pytest.fail("trained again")),
  )


def test_train_learns_planted_quantities(folder):
  images, facts = _bars(1, 60)
  opened = _opened(folder)
  measured = opened.quantities(list(images))
  assert set(measured) == {"level", "width"}
  assert np.corrcoef(measured["width"], facts["width"])[0, 1] > 0.9
  assert abs(np.mean(measured["width"] - facts["width"])) < 0.05
  assert opened.num_training == 96
  # In any company, and of none.
  alone = opened.quantities(images[:1])["width"]
  np.testing.assert_allclose(alone, measured["width"][:1], rtol=1e-4)
  assert opened.quantities(images[:0])["width"].shape == (0,)


def test_train_retrains_for_other_inputs(folder, tmp_path):
  class Trained(Exception):
    pass

  def progress(label, done, total):
    raise Trained

  copy = tmp_path / "copy"
  copy.mkdir()
  (copy / anatomy_regressor.FILE).write_bytes(
    (folder / anatomy_regressor.FILE).read_bytes()
  )
  assert _opened(copy).names == ("level", "width")
  images, facts = _bars(0, 96)
  changed = dict(facts, width=facts["width"] + 0.01)
  with pytest.raises(Trained):
    _opened(copy, images, changed, progress)
  # What stopped has left the former one as it was.
  assert _opened(copy).names == ("level", "width")
  (copy / anatomy_regressor.FILE).write_bytes(b"12345678" * 4)
  with pytest.raises(errors.InputError, match="damaged"):
    _opened(copy)


def test_equal_regressors_are_equal_files(folder, tmp_path):
  path, files = tmp_path / "one", set()
  for _ in range(8):
    anatomy_regressor._save(_opened(folder), path, "mark")
    files.add(path.read_bytes())
  assert len(files) == 1


def test_fingerprint_depends_on_images_and_facts():
  values = np.zeros((8, 1))
  images = np.zeros((8, 4, 4, 1), np.uint8)
  marks = {
    anatomy_regressor.fingerprint(SETTINGS, ("width",), *given)
    for given in ((values, images), (values, images + 1), (values + 1, images))
  }
  assert len(marks) == 3


def test_train_rejects_bad_inputs(folder, tmp_path):
  images, facts = _bars(0, 96)
  with pytest.raises(errors.InputError, match="bring all images to one size"):
    _opened(folder).quantities(images[:, :8])
  with pytest.raises(errors.InputError, match="32"):
    anatomy_regressor.train(images[:31], facts, tmp_path)
  with pytest.raises(errors.InputError, match="width is the same"):
    anatomy_regressor.train(images, dict(facts, width=np.ones(96)), tmp_path)
  with pytest.raises(ValueError, match="facts"):
    anatomy_regressor.train(images, {"width": facts["width"][:5]}, tmp_path)
  assert not list(tmp_path.iterdir())


def test_default_settings_depend_on_the_image_size():
  for size, stride in ((28, 1), (64, 4), (256, 14)):
    assert anatomy_regressor.default_settings(size).stem_stride == stride
  assert dataclasses.replace(anatomy_regressor.default_settings(64)).num_steps == 700
