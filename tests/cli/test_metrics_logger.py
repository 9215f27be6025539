"""Profiles of a run's steps."""

import gzip
import json

import jax
import jax.numpy as jnp
import pytest

from cxr_diffusion_jax.cli import metrics_logger


@pytest.mark.parametrize(
  ("start", "last", "traced"),
  [
    # Of a long run, after the first steps; of a resumed one too.
    (0, 100, (10, 11)),
    (50, 100, (60, 61)),
    # Of a short one, the last steps; of a very short one, what there is.
    (0, 5, (4, 5)),
    (0, 2, (2,)),
  ],
)
def test_profile_traces_steps_after_the_first(start, last, traced, monkeypatch):
  step, running, seen = start, [], []
  monkeypatch.setattr(jax.profiler, "start_trace", running.append)
  monkeypatch.setattr(jax.profiler, "stop_trace", running.clear)
  profile = metrics_logger.Profile("folder", 2, last=last)
  for step in range(start + 1, min(last, start + 20) + 1):
    if running:
      seen.append(step)
    profile(step)
  profile.close()
  assert tuple(seen) == traced
  assert not running


def test_profile_writes_a_trace_that_viewers_read(tmp_path):
  double = jax.jit(lambda x: 2 * x)
  x = jnp.ones(4)
  profile = metrics_logger.Profile(str(tmp_path), 1, last=2)
  for step in (1, 2):
    x = double(x)
    profile(step)
  profile.close()
  folder = tmp_path / "plugins" / "profile"
  (trace,) = folder.glob("*/*.trace.json.gz")
  assert json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
  (xplane,) = folder.glob("*/*.xplane.pb")
  assert xplane.stat().st_size
