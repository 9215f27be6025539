"""Copies: by hash, by correlation whatever the brightness, and none where none are."""

import numpy as np
import pytest
import scipy.ndimage

from cxr_diffusion_jax.data.image_sets import duplicates


@pytest.fixture(scope="module")
def images() -> np.ndarray:
  """Grey structures [60 32 32 1] with nothing in common, uint8."""
  rng = np.random.default_rng(0)
  values = scipy.ndimage.gaussian_filter(rng.standard_normal((60, 32, 32)), (0, 1, 1))
  return np.clip(120 + 150 * values, 0, 255).astype(np.uint8)[..., None]


def test_exact_lists_pairs_of_equal_pixels(images):
  training, generated = (
    duplicates.scan(images[:40]),
    duplicates.scan(images[[45, 3, 3]]),
  )
  assert duplicates.exact(generated, training) == [(1, 3), (2, 3)]
  changed = images[3].copy()
  changed[0, 0] ^= 1
  assert duplicates.exact(duplicates.scan([changed]), training) == []
  # The same bytes in another shape are another image.
  wide = images[3].reshape(16, 64, 1)
  assert duplicates.exact(duplicates.scan([wide]), training) == []


def test_scan_thumbnails_ignore_brightness_and_contrast(images):
  darker = (images[:5] * 0.5 + 20).astype(np.uint8)
  of_images, of_darker = duplicates.scan(images[:5]), duplicates.scan(darker)
  likeness = of_images.thumbnails @ of_darker.thumbnails.T
  assert np.diag(likeness).min() > 0.99
  assert likeness[~np.eye(5, dtype=bool)].max() < 0.7
  flat = duplicates.scan(np.full((1, 32, 32, 1), 77, np.uint8))
  np.testing.assert_array_equal(flat.thumbnails, 0)
  assert duplicates.scan([]).thumbnails.shape == (0, 256)


class Counted(list):
  """Images that count how often one is read."""

  num_reads = 0

  def __getitem__(self, row):
    self.num_reads += 1
    return super().__getitem__(row)


def test_scan_reuses_its_cache(images, tmp_path):
  counted = Counted(images[:9])
  first = duplicates.scan(counted, cache=tmp_path, key="a")
  counted.num_reads = 0
  again = duplicates.scan(counted, cache=tmp_path, key="a")
  # Its ends tell whether it is the same chunk.
  assert counted.num_reads == 2
  np.testing.assert_array_equal(first.digests, again.digests)
  np.testing.assert_array_equal(first.thumbnails, again.thumbnails)
  other = duplicates.scan(images[9:18], cache=tmp_path, key="a")
  assert not (first.digests == other.digests).all(axis=1).any()
  assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
  "change",
  [
    lambda x: x,
    lambda x: x + 50,
    lambda x: x * 0.5 + 60,
    lambda x: x + np.linspace(-40, 40, 32)[:, None, None],
    lambda x: np.roll(x, (1, -1), axis=(0, 1)),
    lambda x: x + np.random.default_rng(1).normal(0, 5, x.shape),
  ],
  ids=["none", "brighter", "flatter", "lit from below", "shifted", "noisy"],
)
def test_likeliest_separates_copies(images, change):
  copy = np.clip(change(images[0].astype(np.float64)), 0, 255).astype(np.uint8)
  rows, values = duplicates.likeliest([copy], images, np.array([[4, 0, 9, 0]]))
  assert rows.tolist() == [0]
  assert values[0] > 0.9
  _, other = duplicates.likeliest([copy], images, np.array([[1]]))
  assert other[0] < 0.4


def test_likeliest_of_an_image_of_one_value_correlates_with_none(images):
  flat = np.full((32, 32, 1), 77, np.uint8)
  for first, second in ((flat, images[0]), (images[0], flat)):
    _, values = duplicates.likeliest([first], [second], np.array([[0]]))
    assert values[0] == 0


def test_threshold_ignores_copies_among_unseen_images():
  z = np.random.default_rng(0).normal(1.0, 0.1, 1000)
  chosen = duplicates.threshold(np.tanh(z))
  assert np.arctanh(chosen) == pytest.approx(1.4, abs=0.03)
  with_copies = np.concatenate([np.tanh(z), np.ones(20)])
  assert duplicates.threshold(with_copies) == pytest.approx(chosen, abs=0.01)
  assert duplicates.threshold(np.tanh(z - 0.9)) == duplicates.LOWEST
  assert duplicates.threshold(np.tanh(z + 2)) == duplicates.HIGHEST
  assert duplicates.threshold(np.zeros(19)) == duplicates.HIGHEST
