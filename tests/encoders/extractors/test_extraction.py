"""Features of images: each alone, kept on disk, resumed, refused where wrong."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.encoders.extractors import extractor as extractor_lib
from cxr_diffusion_jax.encoders.extractors import opening as features


@dataclasses.dataclass
class Counted:
  """Means and maxima of images, and how many images it was given.

  Attributes:
    seen: of each call.
    limit: of calls, after which it fails.
  """

  seen: list = dataclasses.field(default_factory=list)
  limit: int = 1000

  def __call__(self, params, images):
    assert params is None
    if len(self.seen) >= self.limit:
      raise KeyboardInterrupt
    self.seen.append(len(images))
    flat = np.asarray(images, np.float32).reshape(len(images), -1)
    return np.stack([flat.mean(axis=1), flat.max(axis=1)], axis=1)


def _extractor(apply_fn, **changes) -> features.Extractor:
  fields = {"name": "counted", "layer": "pixels", "standin": True, "batch_size": 4}
  fields |= {"fingerprint": "0f", "width": 2, "apply_fn": apply_fn, **changes}
  return features.Extractor(**fields)


@pytest.fixture
def images():
  return np.random.default_rng(0).integers(0, 256, (10, 6, 5, 1)).astype(np.uint8)


def test_extract_does_not_depend_on_the_batch(images):
  expected = Counted()(None, images)
  messages = []
  for size in (1, 4, 10, 64):
    result = features.extract(
      _extractor(Counted(), batch_size=size),
      images,
      progress=lambda label, done, total: messages.append((label, done, total)),
    )
    assert result.dtype == np.float32
    np.testing.assert_array_equal(result, expected)
  assert messages[-1] == ("counted features of images", 10, 10)
  assert features.extract(_extractor(Counted()), images[:0]).shape == (0, 2)


def test_extract_reuses_its_cache(images, tmp_path):
  counted = Counted(limit=2)
  extractor = _extractor(counted)

  def extract(extractor, images, key="real"):
    return features.extract(extractor, images, cache=tmp_path / "new", key=key)

  with pytest.raises(KeyboardInterrupt):
    extract(extractor, images)
  # A row that was cut short is made again.
  (part,) = (tmp_path / "new").glob("*.partial")
  part.write_bytes(part.read_bytes()[:-3])
  counted.limit = 1000
  whole = Counted()(None, images)
  np.testing.assert_array_equal(extract(extractor, images), whole)
  # Two calls before; after the interruption from row 7 on: one call.
  assert len(counted.seen) == 3
  np.testing.assert_array_equal(extract(extractor, images), whole)
  assert len(counted.seen) == 3
  names = sorted(path.name for path in (tmp_path / "new").iterdir())
  assert names == ["counted-0f-real.json", "counted-0f-real.npy"]
  # Other images, another key, other weights.
  other = images.copy()
  other[0] = 0
  np.testing.assert_array_equal(extract(extractor, other), Counted()(None, other))
  np.testing.assert_array_equal(extract(extractor, images[:4]), whole[:4])
  extract(extractor, images, key="other")
  extract(dataclasses.replace(extractor, fingerprint="1f"), images)
  assert len(counted.seen) == 3 + 3 + 1 + 3 + 3


def test_extract_makes_damaged_features_again(images, tmp_path):
  counted = Counted()
  first = features.extract(_extractor(counted), images, cache=tmp_path)
  (path,) = tmp_path.glob("*.npy")
  content = bytearray(path.read_bytes())
  content[-3] ^= 4
  path.write_bytes(content)
  calls = len(counted.seen)
  again = features.extract(_extractor(counted), images, cache=tmp_path)
  np.testing.assert_array_equal(again, first)
  assert len(counted.seen) == 2 * calls


def test_extract_refuses_other_images(images, tmp_path):
  extractor = _extractor(Counted())
  for wrong, messages in (
    ([*images[:2], images[2][:4]], r"image 2 of 5 x 4 pixels; expected 5 x 6"),
    (images / np.float32(255), r"image 0 is float32 \(6, 5, 1\); expected grey"),
    (np.repeat(images, 3, axis=-1), r"image 0 is uint8 \(6, 5, 3\); expected grey"),
  ):
    with pytest.raises(errors.InputError, match=messages):
      features.extract(extractor, wrong)
  with pytest.raises(ValueError, match="letters"):
    features.extract(extractor, images, cache=tmp_path, key="../up")


def test_extract_reports_features_that_are_not_finite(images):
  extractor = _extractor(lambda params, images: np.full((len(images), 2), np.nan))
  with pytest.raises(FloatingPointError, match="features of counted are not finite"):
    features.extract(extractor, images)


def test_extract_uses_all_devices(images):
  seen = []

  def features_fn(params, images):
    jax.debug.inspect_array_sharding(images, callback=seen.append)
    return images.mean(axis=(1, 2)) * params["scale"]

  extractor = extractor_lib.of_network(
    name="mean",
    layer="pixels",
    standin=False,
    width=1,
    images_a_device=1,
    features_fn=features_fn,
    params={"scale": jnp.float32(2)},
  )
  assert extractor.batch_size == jax.local_device_count()
  result = features.extract(extractor, images)
  np.testing.assert_allclose(result, 2 * images.mean(axis=(1, 2)), rtol=1e-6)
  assert seen[0].num_devices == jax.local_device_count()


def test_fingerprint_depends_on_weights_and_use():
  weights = {"a": np.arange(3.0), "b": np.ones(2)}
  same = {"b": np.ones(2), "a": np.arange(3.0)}
  prints = {
    extractor_lib.fingerprint(weights, "x"),
    extractor_lib.fingerprint(weights, "y"),
    extractor_lib.fingerprint({**weights, "b": np.zeros(2)}, "x"),
  }
  assert len(prints) == 3
  assert extractor_lib.fingerprint(same, "x") in prints


def test_resize_is_antialiased():
  # Stripes a pixel wide are grey from afar; picking pixels would make them black.
  stripes = jnp.tile(jnp.array([0.0, 255.0]), (1, 32, 16))[..., None]
  small = extractor_lib.resize(stripes, 8, "linear")
  assert small.shape == (1, 8, 8, 1)
  np.testing.assert_allclose(small[:, :, 1:-1], 127.5, atol=1)
  assert extractor_lib.resize(stripes, 32) is stripes
  # Cubic kernels overshoot at edges: bytes do not.
  edge = jnp.where(jnp.arange(8) < 4, 0.0, 255.0) * jnp.ones((1, 8, 1))
  grown = extractor_lib.resize(edge[..., None], 16)
  assert (float(grown.min()), float(grown.max())) == (0, 255)
