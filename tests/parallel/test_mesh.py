"""Meshes are filled up from the devices there are, and refuse what cannot be."""

import itertools
import types

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


@pytest.mark.parametrize("side", [4, 8])
def test_make_mesh_fits_every_factorisation_on_a_tpu_slice(side):
  class Chip(types.SimpleNamespace):
    __hash__ = object.__hash__

  chips = [
    Chip(
      id=number,
      platform="tpu",
      device_kind="TPU v5 lite",
      coords=(number % side, number // side, 0),
      core_on_chip=0,
      process_index=number // 4,
      slice_index=0,
    )
    for number in range(side * side)
  ]
  sizes = [2**k for k in range(len(chips).bit_length())]
  for fsdp, tensor in itertools.product(sizes, sizes):
    if fsdp * tensor <= len(chips):
      result = mesh.make_mesh(data=-1, fsdp=fsdp, tensor=tensor, devices=chips)
      assert {*result.devices.flat} == {*chips}


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
