"""What every recipe's default sampler reaches of the data, with exact denoisers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import default
from cxr_diffusion_jax.diffusion import prediction, process, schedule
from cxr_diffusion_jax.diffusion.times import Times
from cxr_diffusion_jax.extras.phantom import tree
from cxr_diffusion_jax.run import diffusion_section, sample_section
from tests.benchmarks import sampler_reach
from tests.fixtures import empirical

# Of the first mode of NIH's images at 256 pixels, in the Haar code of two levels.
VARIANCE_256 = 1370.0


def default_sampler(recipe, mode_variance):
  """The recipe's process, and its sampler for a code."""
  section, changes = default.diffusion(recipe)
  settings = sample_section.SampleSettings(**default.SAMPLER | changes)
  return (
    diffusion_section.build(section)["process"],
    sample_section.make_sampler(settings, mode_variance=mode_variance),
  )


@pytest.mark.parametrize("kind", prediction.names())
@pytest.mark.parametrize("path", [schedule.RectifiedFlow(), schedule.EDM()], ids=str)
def test_sampler_reach_denoiser_of_two_images_is_the_sigmoid_of_their_distances(
  path, kind
):
  path = process.Process(schedule=path, prediction=kind)
  images = np.array([[[1.0], [3.0]], [[2.0], [-1.0]]])
  x_t = jnp.array([[[0.5], [1.0]], [[4.0], [-2.0]]])
  t = jnp.array([0.3, 0.6])
  alpha, sigma = path.coefficients(t, 3)
  squares = [np.square(x_t - alpha * image).sum((1, 2)) for image in images]
  share = 1 / (1 + np.exp((squares[0] - squares[1]) / (2 * sigma[:, 0, 0] ** 2)))
  share = np.asarray(share)[:, None, None]
  x0 = share * images[0] + (1 - share) * images[1]
  got = empirical.empirical_denoiser(images, path)(x_t, t, ())
  wanted = prediction.convert(x0, "x0", kind, x_t, alpha, sigma)
  np.testing.assert_allclose(got, wanted, rtol=2e-4, atol=2e-4)


def test_sampler_reach_denoiser_of_one_image_is_that_image():
  image = np.linspace(-2, 2, 12).reshape(1, 2, 6)
  path = process.Process(prediction="x0")
  x_t = jax.random.normal(jax.random.key(0), (3, 2, 6))
  got = empirical.empirical_denoiser(image, path)(x_t, jnp.array([0.01, 0.5, 1.0]), ())
  np.testing.assert_allclose(got, np.broadcast_to(image, got.shape), atol=1e-5)


def test_sampler_reach_denoiser_of_many_images_is_gaussian():
  images = 2 * np.random.default_rng(0).standard_normal((20_000, 1))
  path = process.Process()
  x_t, t = jnp.linspace(-1, 1, 5)[:, None], jnp.full(5, 0.5)
  got = empirical.empirical_denoiser(images, path)(x_t, t, ())
  wanted = empirical.gaussian_denoiser(4.0, path)(x_t, t, ())
  np.testing.assert_allclose(got, wanted, atol=0.05)


@pytest.mark.parametrize("recipe", default.RECIPES)
def test_sampler_reach_of_the_default_covers_the_first_mode(recipe):
  sampled = default_sampler(recipe, VARIANCE_256)
  assert sampled[1].num_evaluations <= 25
  assert abs(empirical.gaussian_ratio(VARIANCE_256, *sampled) - 1) < 0.05


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
  """200 phantoms of 64 pixels."""
  folder = tmp_path_factory.mktemp("phantoms")
  tree.write_tree(folder, num_images=200, size=64)
  return empirical.Bench(
    empirical.code_of(sampler_reach.read(str(folder), 64)), num=300
  )


@functools.cache
def _same(recipe):
  """The recipe that has the same path and sampler, the first of them.

  What an exact denoiser predicts does not matter.
  """

  def of(name):
    path, sampler = default_sampler(name, 1.0)
    return path.schedule, sampler

  return next(name for name in default.RECIPES if of(name) == of(recipe))


@pytest.mark.parametrize(
  "recipe", [name for name in default.RECIPES if _same(name) == name]
)
def test_sampler_reach_of_the_default_equals_fair_draws(recipe, bench):
  reach = bench.measure(*default_sampler(recipe, bench.code.mode_variance))
  assert reach.images > 0.9 * reach.fair
  np.testing.assert_allclose(reach.modes, 1, atol=0.05)
  assert abs(reach.grey - 1) < 0.03
  assert abs(reach.gaussian - 1) < 0.05


def test_sampler_reach_of_even_times_is_lower(bench):
  reach = bench.measure(
    process.Process(),
    sample_section.make_sampler(
      sample_section.SampleSettings(sampler="euler", num_steps=25)
    ),
  )
  assert reach.modes.min() < 0.9
  assert reach.gaussian < 0.9


def test_spectrum_spacing_begins_where_noise_hides_the_data():
  path = process.Process()
  for variance in (20.0, 1370.0):
    grid = Times(spacing="spectrum", variance=variance).grid(path, 25)
    left = float(variance * (grid.alpha[0] / grid.sigma[0]) ** 2)
    assert left == pytest.approx(np.exp(-5), rel=1e-3)
    logsnr = path.schedule.logsnr(grid.t[:-1])
    np.testing.assert_allclose(np.diff(logsnr), np.diff(logsnr).mean(), rtol=1e-3)
  still = Times(spacing="spectrum", variance=1e-12).grid(path, 25)
  assert float(path.schedule.logsnr(still.t[0])) == pytest.approx(-5, rel=1e-3)
  unknown = Times(spacing="spectrum").grid(path, 25)
  assert float(path.schedule.logsnr(unknown.t[0])) == pytest.approx(-10, rel=1e-3)


def test_spectrum_spacing_of_edited_images_begins_at_their_time():
  grid = Times(spacing="spectrum", variance=1370.0, start=0.6).grid(
    process.Process(), 9
  )
  assert float(grid.t[0]) == pytest.approx(0.6, abs=1e-5)
