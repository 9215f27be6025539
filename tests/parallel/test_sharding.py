"""Parameters and batches lie where the rules say; what cannot be split stays whole."""

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
import numpy as np
import pytest

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.parallel import mesh, sharding

RULES = {"to_q": 1, "net_gate": 1, "to_out_0": 0, "net_2": 0}


@pytest.fixture
def cube() -> jax.sharding.Mesh:
  """Two devices an axis."""
  return mesh.make_mesh(data=2, fsdp=2, tensor=2)


@pytest.mark.parametrize(
  ("path", "shape", "spec"),
  [
    (("attn1", "to_q", "kernel"), (320, 640), ("fsdp", "tensor")),
    (("attn1", "to_out_0", "kernel"), (640, 320), ("tensor", "fsdp")),
    (("ff", "net_2", "kernel"), (641, 320), (None, "fsdp")),
    (("mlp", "net_gate", "kernel"), (384, 1024), ("fsdp", "tensor")),
    (("conv1", "kernel"), (3, 3, 64, 128), (None, None, None, "fsdp")),
    (("conv1", "bias"), (128,), (None,)),
    (("norm1", "scale"), (333,), (None,)),
    (("attn1", "unnamed", "kernel"), (640, 320), ("fsdp", None)),
    (("step",), (), ()),
  ],
)
def test_parameter_spec_follows_its_rules(cube, path, shape, spec):
  assert sharding.parameter_spec(path, shape, cube, RULES) == PartitionSpec(*spec)


def test_parameter_spec_of_one_device_splits_nothing():
  single = mesh.make_mesh(num_devices=1)
  spec = sharding.parameter_spec(("to_q", "kernel"), (512, 512), single, RULES)
  assert spec == PartitionSpec(None, None)


def test_state_shardings_place_moments_with_their_parameters(cube):
  params = {"to_q": {"kernel": jnp.zeros((256, 256))}}
  tree = {"params": params, "opt_state": ({"mu": params, "nu": params},)}
  placed = sharding.state_shardings(tree, cube, RULES)
  wanted = placed["params"]["to_q"]["kernel"]
  assert wanted.spec == PartitionSpec("fsdp", "tensor")
  assert placed["opt_state"][0]["mu"]["to_q"]["kernel"] == wanted


@pytest.mark.parametrize(
  ("rows", "parts"),
  [
    # Two processes of two devices: the axis tensor is within each, then spans both.
    ({0: {0, 1}, 1: {2, 3}}, [(0, 2), (1, 2)]),
    ({0: {0}, 1: {0}}, [(0, 1), (0, 1)]),
    ({0: {2, 3}, 1: {0, 1}, 2: {2, 3}, 3: {0, 1}}, [(1, 2), (0, 2), (1, 2), (0, 2)]),
    ({0: {0, 2}, 1: {1, 3}}, [(0, 2), (1, 2)]),
  ],
)
def test_part_of_gives_the_same_part_to_holders_of_the_same_rows(rows, parts):
  assert [sharding.part_of(rows, i, len(rows)) for i in range(len(rows))] == parts


@pytest.mark.parametrize(
  ("rows", "reason"),
  [
    ({0: {0, 1}, 1: {1, 2}, 2: {2, 3}}, "tensor ends within a host"),
    ({0: {0, 1, 2}, 1: {3}}, "tensor ends within a host"),
    ({0: {0, 1}}, "without a device of process 1; .*num_devices=0"),
  ],
)
def test_part_of_refuses_rows_that_cannot_be_parts(rows, reason):
  with pytest.raises(errors.InputError, match=reason):
    sharding.part_of(rows, 0, max(2, len(rows)))


def test_batch_part_of_one_process_is_the_whole(cube):
  assert sharding.batch_part(cube) == (0, 1)


def test_place_batch_keeps_the_rows(cube):
  rows = np.arange(24, dtype=np.float32).reshape(8, 3)
  placed = sharding.place_batch({"rows": rows}, cube)["rows"]
  np.testing.assert_array_equal(np.asarray(placed), rows)
  assert {shard.data.shape for shard in placed.addressable_shards} == {(2, 3)}


def test_place_whole_batch_splits_a_shared_batch(cube):
  rows = np.arange(24, dtype=np.float32).reshape(8, 3)
  rows[0, 0] = np.nan
  placed = sharding.place_whole_batch({"rows": rows}, cube)["rows"]
  np.testing.assert_array_equal(np.asarray(placed), rows)
  assert placed.sharding == sharding.batch_sharding(cube)
