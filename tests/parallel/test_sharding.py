"""Parameters and batches lie where the rules say; what cannot be split stays whole."""

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
import numpy as np
import pytest

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
