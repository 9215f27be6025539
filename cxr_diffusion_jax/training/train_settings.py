"""How long a run trains and what it does on the way: the section `train`, checked."""

import dataclasses

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.run import power_ema as power_ema_lib

# Zero means never, none or all.
_MAY_BE_ZERO = (
  "keep_every",
  "patience",
  "profile_steps",
  "sample_every",
  "validation_batches",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainSettings:
  """How long a run trains, and what it tells on the way. Periods are in steps.

  Attributes:
    num_steps: updates in all.
    batch_size: examples of one update, over all devices and hosts.
    ema_decay: of the parameters' moving average.
    power_ema: relative lengths of averages tracked besides, such as (0.05, 0.1), of
      which any other length is made after training (see `power_ema`); () for none.
    power_ema_every: snapshots of them, kept for good; the last step makes one too.
    log_every: scalars.
    validate_every: validation loss on averaged parameters, fixed times and noise.
    validation_batches: batches of validation rows used each time; 0 for all.
    sample_every: a picture of samples; 0 for none but the first and last.
    checkpoint_every: checkpoints, each with a validation loss.
    keep: newest checkpoints kept beside the best one.
    keep_every: keep every checkpoint at a multiple of so many steps; 0 for none.
    patience: stop after so many validations without a new best; 0 for never.
    profile_steps: steps of a profile written to WORKDIR/plugins; 0 for none.
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
  init_from: str = ""

  def __post_init__(self):
    for name, value in dataclasses.asdict(self).items():
      least = 0 if name in _MAY_BE_ZERO else 1
      if name not in ("ema_decay", "init_from", "power_ema") and value < least:
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
