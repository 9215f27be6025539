"""Samplers against the exact solution for Gaussian data, and their contract."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.diffusion import prediction, process, sampler, schedule, times
from cxr_diffusion_jax.diffusion.samplers import multistep, one_step, second_order

MEAN, STD = 1.5, 0.4

PATHS = [
  schedule.RectifiedFlow(),
  schedule.RectifiedFlow(shift=3.0),
  schedule.Cosine(),
]


def gaussian_denoiser(path, x_t, t, context):
  """The best possible answer for data N(MEAN, STD^2)."""
  del context
  alpha, sigma = path.coefficients(t, x_t.ndim)
  variance = alpha**2 * STD**2 + sigma**2
  surprise = (x_t - alpha * MEAN) / variance
  x0 = MEAN + alpha * STD**2 * surprise
  return prediction.target(path.prediction, x0, sigma * surprise, alpha, sigma)


def _sample(method, path, noise, keys=None, **settings):
  denoise_fn = functools.partial(gaussian_denoiser, path)
  draw = sampler.Sampler(method=method, **settings)
  return jax.jit(lambda x: draw(path, denoise_fn, x, (), keys))(noise)


@pytest.fixture(scope="module")
def noise():
  """[5 1] from -2 to 2."""
  return jnp.linspace(-2, 2, 5)[:, None]


# The probability-flow ODE carries quantiles onto quantiles.
def _exact(noise):
  return MEAN + STD * noise


@pytest.mark.parametrize(
  ("method", "path"),
  [(one_step.Euler(), path) for path in PATHS] + [(one_step.DDIM(), schedule.Cosine())],
  ids=str,
)
def test_sampler_converges_to_the_exact_solution_at_first_order(method, path, noise):
  path = process.Process(schedule=path)
  error = [
    np.abs(_sample(method, path, noise, num_steps=n) - _exact(noise)).max()
    for n in (64, 128)
  ]
  assert 0.85 < np.log2(error[0] / error[1]) < 1.15, error
  assert error[1] < 0.03


@pytest.mark.parametrize("path", PATHS, ids=str)
def test_euler_is_the_deterministic_ddim(path, noise):
  path = process.Process(schedule=path)
  np.testing.assert_allclose(
    _sample(one_step.Euler(), path, noise, num_steps=7),
    _sample(one_step.DDIM(), path, noise, num_steps=7),
    atol=2e-5,
  )


def test_euler_on_the_rectified_flow_is_the_plain_formula(noise):
  path = process.Process()
  x, n = noise, 5
  for i in range(n):
    t = jnp.full(5, 1 - i / n)
    x = x - gaussian_denoiser(path, x, t, ()) / n
  got = _sample(one_step.Euler(), path, noise, num_steps=n)
  np.testing.assert_allclose(got, x, atol=1e-5)


@pytest.mark.parametrize("path", PATHS, ids=str)
def test_sampler_gives_one_image_for_all_predictions(path, noise):
  images = {}
  for name in prediction.names():
    named = process.Process(schedule=path, prediction=name)
    images[name] = _sample(one_step.DDIM(), named, noise, num_steps=20)
    assert np.all(np.isfinite(images[name]))
  for name in ("v", "x0"):
    np.testing.assert_allclose(images[name], images["velocity"], atol=1e-4)
  # epsilon begins a hair later, see Times.
  np.testing.assert_allclose(images["epsilon"], images["velocity"], atol=0.05)


def test_sampler_reaches_a_perfect_prediction_exactly():
  target = jnp.array([[3.0], [-1.0]])
  path = process.Process(prediction="x0")
  keys = jax.random.split(jax.random.key(0), 2)

  @jax.jit
  def draw_all(x):
    methods = [make() for make in sampler.methods().values()]
    draws = [sampler.Sampler(method=method, num_steps=3) for method in methods]
    return [draw(path, lambda x, t, c: target, x, (), keys) for draw in draws]

  for got in draw_all(jnp.zeros((2, 1))):
    np.testing.assert_allclose(got, target, atol=1e-6)


@pytest.mark.parametrize(
  ("eta", "path"), [(0.5, schedule.RectifiedFlow()), (1.0, schedule.Cosine())]
)
def test_fresh_noise_samplers_keep_the_law_of_the_data(eta, path):
  keys = jax.random.split(jax.random.key(0), 4000)
  noise = sampler.draw_noise(keys, (1,))
  fresh = jax.random.split(jax.random.key(1), 4000)
  path = process.Process(schedule=path)
  got = _sample(one_step.DDIM(eta=eta), path, noise, fresh, num_steps=100)
  np.testing.assert_allclose([got.mean(), got.std()], [MEAN, STD], atol=0.03)
  assert np.corrcoef(got[:, 0], noise[:, 0])[0, 1] < 0.999


@pytest.mark.parametrize("method", [one_step.Euler(), one_step.DDPM()], ids=str)
def test_sampler_images_do_not_depend_on_their_batch(method):
  path = process.Process()
  keys = jax.random.split(jax.random.key(3), 4)
  noise = sampler.draw_noise(keys, (2, 2, 1))
  whole = _sample(method, path, noise, keys, num_steps=5)
  part = _sample(method, path, noise[2:3], keys[2:3], num_steps=5)
  np.testing.assert_array_equal(part, whole[2:3])


def test_fresh_noise_samplers_refuse_missing_keys(noise):
  for method in (one_step.DDIM(eta=0.5), one_step.DDPM(), second_order.Heun(churn=1)):
    with pytest.raises(ValueError, match="fresh noise: give keys"):
      _sample(method, process.Process(), noise)


def test_sampler_starts_anywhere_on_the_path():
  path = process.Process()
  start = times.Times(start=0.5)
  z = jnp.linspace(-2, 2, 5)[:, None]
  # The quantile z of x_t is carried onto the quantile z of the data.
  x_t = 0.5 * MEAN + np.sqrt(0.25 * STD**2 + 0.25) * z
  got = _sample(one_step.Euler(), path, x_t, num_steps=400, times=start)
  np.testing.assert_allclose(got, _exact(z), atol=0.01)


def test_sampler_clips_estimates_of_the_data_on_request(noise):
  path = process.Process()
  denoise_fn = functools.partial(gaussian_denoiser, path)
  for method in (one_step.Euler(), second_order.Heun()):
    clipped = sampler.Sampler(method=method, num_steps=6, clip_x0=(1.2, 1.8))
    x0, estimates, _ = clipped.follow(path, denoise_fn, noise, ())
    assert estimates.shape == (6, *noise.shape)
    assert estimates.min() >= 1.2
    assert estimates.max() <= 1.8
    np.testing.assert_allclose(x0, estimates[-1], atol=1e-6)


def test_sampler_scales_large_estimates_to_a_quantile(noise):
  path = process.Process(prediction="x0")
  wide = jnp.stack([jnp.linspace(-4, 4, 101), jnp.linspace(-0.5, 0.5, 101)])
  draw = sampler.Sampler(num_steps=3, dynamic_threshold=0.9)
  got = draw(path, lambda x, t, c: wide, jnp.zeros((2, 101)), ())
  np.testing.assert_allclose(got[0], np.clip(wide[0] / 3.6, -1, 1), atol=1e-6)
  np.testing.assert_allclose(got[1], wide[1], atol=1e-6)


def test_load_finds_samplers_by_name():
  assert sampler.load("euler")() == one_step.Euler()
  assert sampler.load("dpm_solver_2m_sde")() == multistep.DPMSolver2MSDE(eta=1.0)
  with pytest.raises(errors.InputError, match=r"'eular'; expected one of ddim, ddpm, "):
    sampler.load("eular")
  with pytest.raises(errors.InputError, match="heun 'polar'"):
    second_order.Heun(coordinate="polar")
