"""Times: every spacing on every kind of path, and the published sequences of levels."""

import jax
import numpy as np
import pytest

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.diffusion import process, schedule, times

PATHS = [
  schedule.RectifiedFlow(shift=3.0),
  schedule.Cosine(),
  schedule.EDM(),
  schedule.ScaledLinear(),
]


def _levels(num_steps, **settings):
  path = process.Process(schedule=schedule.ScaledLinear())
  where = times.Times(**settings)
  return np.asarray(jax.jit(lambda: where(path, num_steps))())[:-1] * 1000


@pytest.mark.parametrize("path", PATHS, ids=lambda path: type(path).__name__)
def test_times_fall_from_the_start_to_the_data(path):
  wanted = {
    (spacing, start): times.Times(spacing=spacing, start=start, shift=shift)
    for spacing in times.SPACINGS
    for start, shift in ((1.0, 1.0), (0.9, 2.0))
  }

  def steps_of(where):
    grid = where.grid(process.Process(schedule=path), 10)
    return {"t": grid.t, "alpha": grid.alpha, "sigma": grid.sigma}, grid.steps()

  result = jax.jit(lambda: [steps_of(where) for where in wanted.values()])()
  for (spacing, start), (grid, steps) in zip(wanted, result, strict=True):
    assert all(value.shape == (11,) for value in grid.values())
    # A path's lowest level is t = 0, as the data is.
    assert np.all(np.diff(grid["t"][:-1]) < 0), spacing
    assert np.all(np.diff(grid["sigma"]) < 0), spacing
    assert [float(grid[name][-1]) for name in ("t", "alpha", "sigma")] == [0, 1, 0]
    if spacing in ("logsnr", "time"):
      np.testing.assert_allclose(grid["t"][0], start, atol=1e-6)
    assert np.all((steps["shrink"] >= 0) & (steps["shrink"] < 1)), spacing


@pytest.mark.parametrize(
  ("settings", "levels"),
  [
    ({"spacing": "leading"}, [751, 501, 251, 1]),
    ({"spacing": "leading", "offset": 0}, [750, 500, 250, 0]),
    ({"spacing": "trailing"}, [999, 749, 499, 249]),
    ({"spacing": "linspace"}, [999, 666, 333, 0]),
    # What multistep solvers of Stable Diffusion see.
    ({"spacing": "linspace", "skip_last": True}, [999, 749, 500, 250]),
    ({"spacing": "linspace", "whole": False}, [999, 749.25, 499.5, 249.75, 0]),
    ({"spacing": "linspace"}, [999]),
  ],
)
def test_times_levels_are_the_published_ones(settings, levels):
  got = _levels(len(levels), **settings)
  np.testing.assert_allclose(got, levels, atol=1e-3)


def test_karras_spacing_is_even_in_the_root_of_the_noise():
  path = schedule.EDM()
  grid = times.Times(spacing="karras", end="lowest").grid(
    process.Process(schedule=path), 8
  )
  np.testing.assert_allclose(
    grid.sigma[:-1] ** (1 / 7),
    np.linspace(80 ** (1 / 7), 0.002 ** (1 / 7), 8),
    rtol=1e-5,
  )
  np.testing.assert_allclose(grid.sigma[-1], 0.002, rtol=1e-4)
  levels = _levels(8, spacing="karras")
  np.testing.assert_allclose(levels, np.round(levels), atol=1e-3)
  assert (round(levels[0]), round(levels[-1])) == (999, 0)


def test_times_of_a_flow_end_at_its_first_level_warped_twice():
  path = process.Process(schedule=schedule.RectifiedFlow())
  got = times.Times(spacing="linspace", shift=3.0)(path, 5)
  low = 3 * 0.001 / 1.002
  even = np.linspace(1, low, 5)
  np.testing.assert_allclose(got[:-1], 3 * even / (1 + 2 * even), rtol=1e-5)


@pytest.mark.parametrize(
  ("settings", "message"),
  [
    ({"spacing": "even"}, r"'even'; expected one of karras, .*, trailing"),
    ({"shift": 0}, "shift=0 of times; expected above 0"),
    ({"rho": -1}, "rho=-1 of times"),
    ({"start": 0}, "start=0 of times; expected above 0, at most 1"),
    ({"start": 1.1}, "start=1.1 of times"),
    ({"end": "zero"}, r"one of data, lowest"),
  ],
)
def test_times_that_cannot_be_are_refused(settings, message):
  with pytest.raises(errors.InputError, match=message):
    times.Times(**settings)


def test_times_refuse_more_steps_than_levels():
  path = process.Process(schedule=schedule.Linear(num_levels=10))
  with pytest.raises(errors.InputError, match=r"12 steps of .* among 10 levels"):
    times.Times(spacing="trailing")(path, 12)
