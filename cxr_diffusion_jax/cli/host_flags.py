"""Flags of a command that runs on several hosts, and its start and end on all of them.

flags --define--> holders --joined--> block --first failure--> the end of all processes
"""

from collections.abc import Iterator
import contextlib
import hashlib
import pathlib

from absl import flags

from cxr_diffusion_jax.cli import terminal

Holders = dict[str, flags.FlagHolder]

# Attribute these flags to the main that defines them.
flags.disclaim_key_flags()


def define() -> Holders:
  """Defines the flags; call it in the main's group of flags."""
  return {
    "distributed": flags.DEFINE_bool(
      "distributed", False, "Join the other hosts of a run on several hosts."
    ),
    "join_timeout": flags.DEFINE_integer(
      "join_timeout", 300, "Seconds to wait for the other hosts.", lower_bound=1
    ),
    "heartbeat_timeout": flags.DEFINE_integer(
      "heartbeat_timeout",
      60,
      "Seconds without a sign of life after which a host is lost, which ends the run.",
      lower_bound=10,
    ),
  }


@contextlib.contextmanager
def joined(holders: Holders) -> Iterator[None]:
  """Joins the other hosts, if there are any; one that fails ends all of them.

  Raises:
    errors.InputError: the processes are not identified, or have other code.
    errors.MissingHosts: some did not join in time.
  """
  import jax

  from cxr_diffusion_jax.parallel import agreement, distributed, failures, store

  distributed.initialize(
    holders["distributed"].value,
    timeout=holders["join_timeout"].value,
    heartbeat=holders["heartbeat_timeout"].value,
  )
  opened = store.open_store()
  with failures.shared(opened, write_fn=terminal.TERMINAL.write):
    if opened is not None:
      agreement.check_same(
        "code",
        {"cxr_diffusion_jax": _code(), "jax": jax.__version__},
        "install the same version on every host",
      )
    yield


def _code() -> str:
  """16 hexadecimal digits of the package's sources."""
  package = pathlib.Path(__file__).parents[1]
  digest = hashlib.sha256()
  for path in sorted(package.rglob("*.py")):
    digest.update(f"{path.relative_to(package)}\n".encode() + path.read_bytes())
  return digest.hexdigest()[:16]
