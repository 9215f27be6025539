"""What is known stays, what is made is drawn; and masks on coarser places."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cxr_diffusion_jax.diffusion import inpainting, process, sampler


@pytest.fixture
def data():
  """x0 and a mask whose left half is to be made, and the noise."""
  rng = np.random.default_rng(0)
  x0, noise = rng.standard_normal((2, 3, 4, 4, 1)).astype(np.float32)
  make = np.zeros((3, 4, 4, 1), bool)
  make[:, :, :2] = True
  return x0, make, noise


def _draw(method: str, noise, constrain_fn=None):
  """Of data that are 2 everywhere, as a wrong denoiser has it: 0.9 as much."""
  path = process.Process(prediction="x0")
  to = sampler.Sampler(method=sampler.load(method)(), num_steps=4)
  keys = jax.random.split(jax.random.key(0), len(noise))
  denoise_fn = lambda x_t, t, context: 1.8 + 0.05 * x_t  # noqa: E731
  return to(path, denoise_fn, noise, (), keys, constrain_fn=constrain_fn)


@pytest.mark.parametrize("method", ["euler", "ddpm", "heun"])
def test_keep_known_returns_known_pixels_unchanged(method, data):
  x0, make, noise = data
  path, fresh = process.Process(), method == "ddpm"
  keep = inpainting.keep_known(path, x0, make, noise, fresh=fresh)
  result = np.asarray(_draw(method, noise, keep))
  np.testing.assert_array_equal(result[~make], x0[~make])
  assert np.abs(result[make] - 2).max() < 0.5
  # Where all is made, nothing is kept.
  plain = _draw(method, noise)
  all_made = inpainting.keep_known(path, x0, np.ones_like(make), noise, fresh=fresh)
  np.testing.assert_allclose(_draw(method, noise, all_made), plain, atol=1e-6)


def test_keep_known_noises_known_pixels_along_the_path(data):
  x0, make, noise = data
  path = process.Process()
  own = inpainting.keep_known(path, x0, make, noise)
  fresh = inpainting.keep_known(path, x0, make, noise, fresh=True)
  x = np.full_like(x0, 7)
  at = np.asarray(own(x, jnp.float32(0.25), None))
  np.testing.assert_allclose(at[~make], (0.75 * x0 + 0.25 * noise)[~make], rtol=1e-6)
  np.testing.assert_array_equal(at[make], 7)
  keys = jax.random.split(jax.random.key(1), 3)
  other = np.asarray(fresh(x, jnp.float32(0.25), keys))
  drawn = (other - 0.75 * x0)[~make] / 0.25
  assert abs(np.corrcoef(drawn, noise[~make])[0, 1]) < 0.6
  np.testing.assert_allclose(drawn.std(), 1, atol=0.35)


def test_to_places_marks_a_place_if_any_pixel_is_masked():
  mask = np.zeros((1, 4, 6, 1), bool)
  mask[0, 3, 4] = True
  places = inpainting.to_places(mask, (2, 3))
  assert np.argwhere(places).tolist() == [[0, 1, 2, 0]]
  np.testing.assert_array_equal(inpainting.to_places(mask, (4, 6)), mask)
  with pytest.raises(ValueError, match="4x6 pixels for 3x3 places"):
    inpainting.to_places(mask, (3, 3))
