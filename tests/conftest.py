"""Fixtures of all tests: eight simulated devices, and the real mini tree if present."""

import os
import pathlib

# Before jax is imported anywhere: sharding tests want eight devices on any machine.
os.environ["XLA_FLAGS"] = (
  os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from absl import flags
import pytest

# Grain's worker processes read absl flags, which pytest never parses.
flags.FLAGS.mark_as_parsed()

REPOSITORY = pathlib.Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def repository() -> pathlib.Path:
  """The repository's root."""
  return REPOSITORY


@pytest.fixture(scope="session")
def nih_cxr_mini() -> pathlib.Path:
  """A tree of 799 real NIH images beside the checkout."""
  root = REPOSITORY.parent / "shared" / "nih-cxr-mini"
  if not root.is_dir():
    pytest.skip("no real images: ../shared/nih-cxr-mini is absent")
  return root
