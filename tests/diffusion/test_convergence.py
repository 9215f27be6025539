"""Samplers against exact solutions: their orders, and the law of what they draw.

Data of a Gaussian has an exact denoiser and an exact flow. A mixture of two narrow
Gaussians has an exact denoiser too; its flow is what many steps of Heun give.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cxr_diffusion_jax.diffusion import prediction, process, sampler, schedule, times
from cxr_diffusion_jax.diffusion.samplers import multistep, one_step, second_order

MEANS, STDS, SHARES = (-1.0, 1.5), (0.3, 0.4), (0.3, 0.7)

# Between two levels of noise, so that the last step is no shorter than the others.
TIMES = times.Times(spacing="karras", end="lowest")
PATHS = [
  process.Process(schedule=schedule.RectifiedFlow()),
  process.Process(schedule=schedule.VP(), prediction="epsilon"),
  process.Process(schedule=schedule.EDM(), prediction="x0"),
]
ORDERS = [
  (second_order.Heun(), 2),
  (multistep.DPMSolver2M(), 2),
  (multistep.UniPC(), 3),
]


def mixture_denoiser(path, components, x_t, t, context):
  """The best answer for data of `components` Gaussians of MEANS, STDS and SHARES."""
  del context
  alpha, sigma = path.coefficients(t, x_t.ndim)
  shares, x0s = [], []
  for i in components:
    variance = alpha**2 * STDS[i] ** 2 + sigma**2
    apart = x_t - alpha * MEANS[i]
    shares.append(np.log(SHARES[i]) - 0.5 * (jnp.log(variance) + apart**2 / variance))
    x0s.append(MEANS[i] + alpha * STDS[i] ** 2 * apart / variance)
  weights = jax.nn.softmax(jnp.stack(shares), axis=0)
  x0 = jnp.sum(weights * jnp.stack(x0s), axis=0)
  noise = (x_t - alpha * x0) / jnp.maximum(sigma, 1e-6)
  return prediction.target(path.prediction, x0, noise, alpha, sigma)


def _draw(method, path, num_steps, noise, components, keys=None, where=TIMES):
  draw = sampler.Sampler(method=method, num_steps=num_steps, times=where)
  denoise_fn = functools.partial(mixture_denoiser, path, components)
  return jax.jit(lambda x: draw(path, denoise_fn, x, (), keys))(noise)


def solution(path, num_steps, noise):
  """Where the flow of Gaussian 1 carries the first x: quantile onto quantile."""
  grid = TIMES.grid(path, num_steps)
  mean = grid.alpha[jnp.array([0, -1])] * MEANS[1]
  std = jnp.hypot(grid.alpha * STDS[1], grid.sigma)[jnp.array([0, -1])]
  return mean[1] + std[1] * (grid.sigma[0] * noise - mean[0]) / std[0]


@pytest.mark.parametrize(
  ("method", "order", "path"),
  # tests/parity/sampler_orders.py measures each on each.
  [
    (method, order, PATHS[(i + j) % 3])
    for i, (method, order) in enumerate(ORDERS)
    for j in range(2)
  ],
  ids=lambda value: type(getattr(value, "schedule", value)).__name__,
)
def test_sampler_reaches_a_gaussian_at_its_order(method, order, path):
  noise = jnp.linspace(-2, 2, 5)[:, None]
  error = [
    np.abs(_draw(method, path, n, noise, (1,)) - solution(path, n, noise)).max()
    for n in (16, 32)
  ]
  assert order - 0.1 < np.log2(error[0] / error[1]) < order + 0.35, error
  assert error[1] < (0.03, 0.01)[order - 2]


@pytest.mark.parametrize(
  "method", [multistep.DPMSolver2M(), multistep.UniPC()], ids=str
)
def test_sampler_of_second_order_reaches_a_mixture_at_it(method):
  path, noise = PATHS[2], jnp.linspace(-2, 2, 41)[:, None]
  exact = _draw(second_order.Heun(), path, 600, noise, (0, 1))
  error = [
    np.abs(_draw(method, path, n, noise, (0, 1)) - exact).mean() for n in (32, 64)
  ]
  assert np.log2(error[0] / error[1]) > 1.8, error
  assert error[1] < 0.01


@pytest.mark.parametrize(
  "method",
  [
    one_step.EulerAncestral(eta=0.5),
    multistep.DPMSolver2M(eta=1.0),
    second_order.Heun(churn=20.0, churn_low=0.05, churn_high=50.0),
  ],
  ids=str,
)
def test_fresh_noise_samplers_draw_the_law_of_a_mixture(method):
  path = process.Process(schedule=schedule.VP(), prediction="v")
  noise, keys = (
    sampler.draw_noise(jax.random.split(jax.random.key(0), 6000), (1,)),
    jax.random.split(jax.random.key(1), 6000),
  )
  got = _draw(method, path, 200, noise, (0, 1), keys, times.Times(spacing="karras"))
  mean = np.dot(SHARES, MEANS)
  square = np.dot(SHARES, np.square(MEANS) + np.square(STDS))
  np.testing.assert_allclose(got.mean(), mean, atol=0.05)
  np.testing.assert_allclose(got.std(), np.sqrt(square - mean**2), atol=0.04)
  np.testing.assert_allclose((got < 0.2).mean(), SHARES[0], atol=0.03)
  assert np.abs(np.corrcoef(got[:, 0], noise[:, 0])[0, 1]) < 0.95


def test_sampler_applies_constraints_at_every_step():
  path, keys = PATHS[0], jax.random.split(jax.random.key(0), 3)
  noise = jnp.linspace(-2, 2, 3)[:, None]
  for name in ("heun", "unipc"):
    seen = []

    def constrain_fn(x, t, own, seen=seen):
      jax.debug.callback(lambda t, own: seen.append((float(t), own)), t, _bits(own))
      return x.at[:, 0].set(3.0 - t)

    draw = sampler.Sampler(method=sampler.load(name)(), num_steps=4)
    denoise_fn = functools.partial(mixture_denoiser, path, (1,))
    follow = functools.partial(
      draw.follow, path, denoise_fn, context=(), constrain_fn=constrain_fn
    )
    states = jax.jit(lambda x, follow=follow: follow(noise=x, keys=keys)[2])(noise)
    jax.effects_barrier()
    np.testing.assert_allclose(states[:, 0, 0], [2.25, 2.5, 2.75, 3.0], atol=1e-6)
    assert {t for t, _ in seen} == {0.75, 0.5, 0.25, 0.0}
    assert len({own.tobytes() for _, own in seen}) == 4


def _bits(keys):
  return jax.random.key_data(keys)


def test_sampler_evaluates_as_often_as_it_states():
  path, noise = PATHS[0], jnp.zeros((1, 1))
  for name in ("heun", "unipc"):
    asked = []

    def denoise_fn(x, t, context, asked=asked):
      del context
      jax.debug.callback(lambda t: asked.append(float(t[0])), t)
      return x

    draw = sampler.Sampler(method=sampler.load(name)(), num_steps=4)
    run = functools.partial(draw, path, denoise_fn, context=())
    jax.jit(run)(noise)
    jax.effects_barrier()
    assert len(asked) == draw.num_evaluations == (7 if name == "heun" else 4)
    assert set(asked) == {1.0, 0.75, 0.5, 0.25}
