"""Joining the hosts of a run."""

import jax
import pytest

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.parallel import distributed


@pytest.fixture
def joined(monkeypatch) -> list[dict]:
  """What `jax.distributed.initialize` was called with; nobody is joined."""
  calls = []

  def initialize(**arguments):
    calls.append(arguments)
    if set(arguments.values()) == {None}:
      raise ValueError("Number of processes must be defined.")

  monkeypatch.setattr(jax.distributed, "initialize", initialize)
  for name in ("COORDINATOR_ADDRESS", "NUM_PROCESSES", "PROCESS_ID"):
    monkeypatch.delenv(f"JAX_{name}", raising=False)
  return calls


def test_initialize_does_nothing_on_one_host(joined):
  distributed.initialize(False)
  assert joined == []


def test_initialize_reads_the_launcher(joined, monkeypatch):
  monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "localhost:1")
  monkeypatch.setenv("JAX_NUM_PROCESSES", "2")
  monkeypatch.setenv("JAX_PROCESS_ID", "0")
  distributed.initialize(False)
  assert joined == [{"num_processes": 2, "process_id": 0}]


def test_initialize_refuses_unnamed_hosts(joined):
  with pytest.raises(errors.InputError, match="set JAX_COORDINATOR_ADDRESS"):
    distributed.initialize(True)
  assert joined == [{"num_processes": None, "process_id": None}]
