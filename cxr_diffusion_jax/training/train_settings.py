"""The section `train` of a config: how long a run trains, and its periods."""

import dataclasses
from typing import TYPE_CHECKING

from cxr_diffusion_jax import errors, naming
from cxr_diffusion_jax.run import power_ema as power_ema_lib

if TYPE_CHECKING:
  import jax

# Zero means never, none or all.
_MAY_BE_ZERO = (
  "keep_every",
  "patience",
  "profile_steps",
  "sample_every",
  "validation_batches",
)

_NO_COUNTS = ("ema_decay", "init_from", "on_nan", "power_ema")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainSettings:
  """How long a run trains, and what it does meanwhile. Periods are in steps.

  Attributes:
    num_steps: number of updates.
    batch_size: examples per update, over all devices and hosts.
    ema_decay: decay of the parameters' moving average.
    power_ema: relative lengths of further averages, such as (0.05, 0.1), from which
      averages of any length are reconstructed after training (see `power_ema`).
    power_ema_every: period of their snapshots, which are kept; the last step also
      saves one.
    log_every: period of scalars.
    validate_every: period of validation losses of averaged parameters.
    validation_batches: batches of a validation; 0 for all.
    sample_every: period of pictures of samples; 0 for none.
    checkpoint_every: period of checkpoints, each with a validation loss.
    keep: number of newest checkpoints kept, besides the best one.
    keep_every: also keep checkpoints at multiples of this step; 0 for none.
    patience: stop after this many validations without a new best; 0 for never.
    profile_steps: steps of a profile, written once to WORKDIR/plugins; 0 for none.
    on_nan: what a step does whose loss, gradient or parameters are not finite: 'stop'
      ends the run, 'skip' goes on without its update. Both write the rows of its batch
      to WORKDIR/diverged.
    max_skipped: steps in a row that may be skipped before the run ends.
    init_from: folder of a run whose averaged parameters are the first ones of this
      run; "" for none. The networks must be the same.
  """

  num_steps: int
  batch_size: int
  ema_decay: float = 0.9999
  power_ema: tuple[float, ...] = ()
  power_ema_every: int = 1000
  log_every: int = 100
  validate_every: int = 1000
  validation_batches: int = 0
  sample_every: int = 5000
  checkpoint_every: int = 1000
  keep: int = 2
  keep_every: int = 0
  patience: int = 0
  profile_steps: int = 0
  on_nan: str = "stop"
  max_skipped: int = 10
  init_from: str = ""

  def __post_init__(self):
    naming.check("unknown config.train.on_nan", self.on_nan, ("stop", "skip"))
    for name, value in dataclasses.asdict(self).items():
      least = 0 if name in _MAY_BE_ZERO else 1
      if name not in _NO_COUNTS and value < least:
        raise errors.InputError(f"config.train.{name}={value}", f"{least} or more")
    if not 0 <= self.ema_decay < 1:
      raise errors.InputError(f"config.train.ema_decay={self.ema_decay}", "[0, 1)")
    object.__setattr__(self, "power_ema", tuple(self.power_ema))
    for length in self.power_ema:
      power_ema_lib.power(length)
    if sorted(set(self.power_ema)) != list(self.power_ema):
      raise errors.InputError(
        f"config.train.power_ema={self.power_ema}", "different lengths, in order"
      )

  def check_batch_size(self, mesh: "jax.sharding.Mesh", accumulation: int = 1) -> None:
    """Raises errors.InputError unless devices and accumulation divide the batch."""
    devices = mesh.shape["data"] * mesh.shape["fsdp"]
    if self.batch_size % (devices * accumulation):
      raise errors.InputError(
        f"config.train.batch_size={self.batch_size}",
        f"a multiple of {devices * accumulation}: devices that share a batch"
        f" ({devices}) times config.optimizer.accumulation ({accumulation})",
      )
