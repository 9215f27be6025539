"""Whether a checkpoint belongs to the run that wants to go on from it.

(config, data) of the checkpoint == (config, data) now, but for what is free to change
"""

from collections.abc import Mapping
from typing import Any

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.encoders.latents import autoencoders
from cxr_diffusion_jax.encoders.latents import columns as latent_columns

# Config keys that may change between the parts of one run: where and how fast it runs
# and what it tells, not what is learned.
FREE_KEYS = (
  # It may move: what it holds is compared, see `latent_columns.check_same`.
  "codec.folder",
  "data.num_workers",
  "data.records_dir",
  "data.root",
  "data.standin",
  "parallel.",
  "sample.",
  "train.checkpoint_every",
  "train.keep",
  "train.log_every",
  "train.patience",
  "train.power_ema_every",
  "train.profile_steps",
  "train.sample_every",
  "train.validate_every",
  "train.validation_batches",
)


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
  """Returns {'a.b.c': value} of nested mappings."""
  flat: dict[str, Any] = {}
  for key, value in tree.items():
    if isinstance(value, Mapping):
      flat.update(flatten(value, f"{prefix}{key}."))
    else:
      flat[f"{prefix}{key}"] = value
  return flat


def check_config(saved: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
  """Compares the config of a checkpoint with the one the run has now.

  Args:
    saved: plain values, from the checkpoint.
    wanted: the same, now.

  Raises:
    errors.InputError: they differ in what is learned; the keys are named. A longer
      run is another run where the learning rate is a cosine, whose course depends on
      its end.
  """
  old, new = flatten(saved), flatten(wanted)
  free = list(FREE_KEYS)
  if new.get("optimizer.schedule") in ("constant", "inverse_sqrt"):
    free.append("train.num_steps")
  differing = [
    f"{key} ({old.get(key, 'unset')} there, {new.get(key, 'unset')} here)"
    for key in sorted(old.keys() | new.keys())
    if old.get(key) != new.get(key) and not key.startswith(tuple(free))
  ]
  if differing:
    raise errors.InputError(
      f"the checkpoints in this workdir are of another config: {'; '.join(differing)}",
      fix="name a new --workdir, or give the same values",
    )


def check_data(
  saved: Mapping[str, Any],
  wanted: Mapping[str, Any],
  autoencoder: autoencoders.Autoencoder | None = None,
) -> None:
  """Compares the data of a checkpoint with what the run reads now.

  Args:
    saved: a dataset's description, from the checkpoint.
    wanted: the same, now.
    autoencoder: that decodes, where the latents themselves are not read.

  Raises:
    errors.InputError: the records, a column or the autoencoder are not the same.
  """
  latent_columns.check_same(saved.get("latents", {}), autoencoder)
  # Sampling reads no targets and no latents: compared where this run wants some.
  optional = [key for key in ("targets", "latents") if key in wanted]
  for key in ("fingerprint", "columns", *optional):
    if saved.get(key) != wanted[key]:
      raise errors.InputError(
        f"the checkpoints in this workdir are of other data: {key}"
        f" {_short(saved.get(key))} there, {_short(wanted[key])} here",
        fix="name a new --workdir, or restore the tree that the run began with",
      )


def _short(value: Any) -> str:
  if isinstance(value, Mapping):
    return ", ".join(
      f"{name} of {column['encoder']} ({column['fingerprint'][:8]})"
      for name, column in sorted(value.items())
    )
  return str(value)[:12]
