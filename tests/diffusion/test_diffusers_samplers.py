"""Samplers against what diffusers' schedulers made of the same noise, step by step."""

import importlib.util
import json
import pathlib

import numpy as np
import pytest

FOLDER = pathlib.Path(__file__).parent


def _module(name):
  spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


PEERS = _module("sampler_cases")
CASES = [case for case in PEERS.cases() if not case.live]


@pytest.fixture(scope="module")
def stored():
  """Inputs and results of the peers, by name of the case."""
  return json.loads((FOLDER / "diffusers_samplers.json").read_text("utf-8"))


def test_sampler_names_all_have_a_diffusers_peer(stored):
  assert {case.name for case in CASES} == set(stored)
  assert {case.sampler for case in CASES} == set(PEERS.sampler.methods())


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_sampler_steps_equal_diffusers(case, stored):
  reported, states = PEERS.run_ours(case, (2, 3))
  np.testing.assert_allclose(reported, stored[case.name]["times"], atol=1e-5)
  peer = np.array(stored[case.name]["states"]).reshape(states.shape)
  error = np.abs(states - peer).max(axis=(1, 2)) / np.abs(peer).max(axis=(1, 2))
  assert error.max() < 1e-4, error
