"""Joining the hosts of a run."""

import os
import signal
import types

import jax
import pytest

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.parallel import distributed, roll_call


@pytest.fixture
def joined(monkeypatch):
  """What `jax.distributed.initialize` was called with; nobody is joined."""
  calls = []
  handler = signal.getsignal(signal.SIGTERM)

  def initialize(**arguments):
    assert not jax.config.jax_enable_preemption_service
    calls.append(arguments)
    if arguments["num_processes"] is None:
      raise ValueError("Number of processes must be defined.")

  monkeypatch.setattr(jax.distributed, "initialize", initialize)
  monkeypatch.setattr(roll_call, "wait", lambda *arguments: None)
  for name in os.environ:
    if name.startswith(("JAX_COORD", "JAX_NUM", "JAX_PROC", "SLURM_", "TPU_")):
      monkeypatch.delenv(name)
  yield calls
  jax.config.update("jax_enable_preemption_service", True)
  signal.signal(signal.SIGTERM, handler)


def test_initialize_does_nothing_on_one_host(joined):
  distributed.initialize(False)
  assert joined == []


def test_initialize_reads_the_launcher(joined, monkeypatch):
  waited = []
  monkeypatch.setattr(roll_call, "wait", lambda *arguments: waited.append(arguments))
  monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "localhost:1")
  monkeypatch.setenv("JAX_NUM_PROCESSES", "2")
  monkeypatch.setenv("JAX_PROCESS_ID", "0")
  distributed.initialize(False, timeout=7)
  (call,) = joined
  assert (call["coordinator_address"], call["num_processes"]) == ("localhost:1", 2)
  assert (call["process_id"], call["initialization_timeout"]) == (0, 7)
  assert waited == [("localhost:1", 2, 0, 7)]


def test_initialize_refuses_unnamed_hosts(joined):
  with pytest.raises(errors.InputError, match="set JAX_COORDINATOR_ADDRESS"):
    distributed.initialize(True)
  assert len(joined) == 1


def test_sigterm_ends_preparations_and_saves_in_training(joined, monkeypatch):
  from jax._src import distributed as jax_distributed

  monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "localhost:1")
  monkeypatch.setenv("JAX_NUM_PROCESSES", "2")
  monkeypatch.setenv("JAX_PROCESS_ID", "0")
  distributed.initialize(False)
  with pytest.raises(errors.Terminated):
    os.kill(os.getpid(), signal.SIGTERM)
  started = []

  def start():
    assert jax.config.jax_enable_preemption_service
    started.append(signal.getsignal(signal.SIGTERM))

  service = types.SimpleNamespace(
    initialize_preemption_sync_manager=start, preemption_sync_manager=None
  )
  monkeypatch.setattr(jax_distributed, "global_state", service)
  monkeypatch.setattr(jax, "process_count", lambda: 1)
  # Of one process, JAX's service has nothing to agree on.
  with distributed.signals() as received:
    os.kill(os.getpid(), signal.SIGTERM)
  assert (received, started) == ([signal.SIGTERM], [])
  monkeypatch.setattr(jax, "process_count", lambda: 2)
  monkeypatch.setattr(distributed.store_lib, "open_store", object)
  with distributed.signals():
    assert started == [signal.SIG_DFL]
  with pytest.raises(errors.Terminated):
    os.kill(os.getpid(), signal.SIGTERM)


SLURM = {
  "SLURM_JOB_ID": "4099",
  "SLURM_NTASKS": "16",
  "SLURM_PROCID": "9",
  "SLURM_LOCALID": "1",
}


@pytest.mark.parametrize(
  ("nodes", "first"),
  [
    ("node7", "node7"),
    ("node7,node9", "node7"),
    ("node[007-010,012]", "node007"),
    ("gpu-a[3,5],login", "gpu-a3"),
  ],
)
def test_identify_reads_slurm_as_jax_does(nodes, first, monkeypatch):
  from jax._src.clusters import slurm_cluster

  environment = {**SLURM, "SLURM_STEP_NODELIST": nodes}
  process = distributed.identify(environment)
  assert process == distributed.Process(address=f"{first}:61443", count=16, index=9)
  for name, value in environment.items():
    monkeypatch.setenv(name, value)
  address = slurm_cluster.SlurmCluster.get_coordinator_address(None, None)
  assert process.address == address


def test_identify_reads_a_gke_slice_and_leaves_several_to_jax():
  environment = {"TPU_WORKER_HOSTNAMES": "a.cxr,b.cxr", "TPU_WORKER_ID": "1"}
  process = distributed.identify(environment)
  assert process == distributed.Process(address="a.cxr:8482", count=2, index=1)
  for changes in (
    {"MEGASCALE_NUM_SLICES": "2"},
    {"TPU_WORKER_HOSTNAMES": "localhost"},
  ):
    assert distributed.identify({**environment, **changes}) == distributed.Process()


def test_identify_prefers_the_variables_of_jax():
  environment = {**SLURM, "SLURM_STEP_NODELIST": "node7"}
  environment |= {"JAX_COORDINATOR_ADDRESS": "[::1]:80", "JAX_PROCESS_ID": "3"}
  process = distributed.identify(environment)
  assert process == distributed.Process(address="[::1]:80", count=16, index=3)
  # Within mpirun, JAX identifies the processes.
  environment = {**SLURM, "SLURM_STEP_NODELIST": "node7", "OMPI_MCA_orte_hnp_uri": ""}
  assert distributed.identify(environment) == distributed.Process()


@pytest.mark.parametrize(
  ("environment", "reason"),
  [
    ({"COORDINATOR_ADDRESS": "host"}, "expected host:port"),
    ({"NUM_PROCESSES": "two"}, "JAX_NUM_PROCESSES=two; expected a whole number"),
    ({"NUM_PROCESSES": "2", "PROCESS_ID": "2"}, "JAX_PROCESS_ID from 0 to 1"),
    ({"NUM_PROCESSES": "2", "PROCESS_ID": "-1"}, "JAX_PROCESS_ID=-1"),
  ],
)
def test_identify_refuses(environment, reason):
  with pytest.raises(errors.InputError, match=reason):
    distributed.identify({f"JAX_{name}": value for name, value in environment.items()})
