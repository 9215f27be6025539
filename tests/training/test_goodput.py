"""Goodput by a clock that the tests turn."""

import contextlib

import pytest

from cxr_diffusion_jax.training import goodput


class Clock:
  """Seconds, which pass by calls of `spend` only."""

  now = 100.0

  def __call__(self) -> float:
    return self.now

  def spend(self, seconds: float) -> float:
    self.now += seconds
    return seconds


def test_goodput_is_the_share_of_the_time_in_steps():
  clock = Clock()
  measured = goodput.Goodput(clock)
  with measured.lost("start"):
    clock.spend(10)
  step = measured.first_call("compile", clock.spend)
  # The first call compiles; the second is a step.
  assert [step(20), step(30)] == [20, 30]
  with measured.lost("validation"):
    clock.spend(15)
  with measured.lost("input", lambda: False):
    clock.spend(20)  # The device was busy all the time.
  with contextlib.suppress(OSError), measured.lost("checkpoints"):
    clock.spend(5)
    raise OSError
  assert measured.shares() == {
    "steps": pytest.approx(0.5),
    "start": 0.1,
    "compile": 0.2,
    "input": 0,
    "validation": 0.15,
    "samples": 0,
    "checkpoints": 0.05,
  }
  assert measured.scalars()["train/goodput"] == pytest.approx(0.5)
  assert measured.scalars()["lost/compile"] == 0.2
  assert measured.summary() == (
    "goodput: 50.0% of the time in training steps; start 10.0%, compile 20.0%,"
    " validation 15.0%, checkpoints 5.0%"
  )


def test_goodput_of_no_time_is_one():
  assert goodput.Goodput(Clock()).scalars()["train/goodput"] == 1
