"""Meshes are filled up from the devices there are, and refuse what cannot be."""

import jax
import pytest

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.parallel import mesh


def test_make_mesh_fills_one_axis_with_remaining_devices():
  result = mesh.make_mesh(data=-1, fsdp=2, tensor=2)
  assert dict(result.shape) == {"data": 2, "fsdp": 2, "tensor": 2}


def test_make_mesh_uses_fewer_devices_on_request():
  result = mesh.make_mesh(num_devices=1)
  assert result.size == 1


def test_make_mesh_uses_given_devices():
  result = mesh.make_mesh(devices=jax.devices()[2:4])
  assert result.devices.flatten().tolist() == jax.devices()[2:4]
  assert mesh.platform(result) == "cpu"


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ({"num_devices": 99}, "num_devices=99; expected 0 \\(all\\) to 8"),
    ({"data": 3, "fsdp": 1}, "make 3 of 8 devices"),
    ({"data": 16}, "make 16 of 8 devices"),
    ({"data": -1, "fsdp": -1}, "at most one of them -1"),
    ({"tensor": 0}, "positive sizes"),
  ],
)
def test_make_mesh_refuses_impossible_meshes(arguments, message):
  with pytest.raises(errors.InputError, match=message):
    mesh.make_mesh(**arguments)
