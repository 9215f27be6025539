"""The arms of an experiment on training data, and what each is trained on.

settings -> fits: (share of the real images, arm, seed) -> phases: images, updates
"""

import dataclasses

import numpy as np

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.evaluation.judges.probe_fit import ProbeSettings
from cxr_diffusion_jax.evaluation.metrics.utility_fit import Phase, Source

REAL = "real"
ARMS = (REAL, "tstr", "real_and_synthetic", "synthetic_then_real")

# Arms that a share of the real images makes a difference to.
CURVE_ARMS = (REAL, "real_and_synthetic", "synthetic_then_real")

# Between the seeds of a training and of its fine-tuning.
_FINE_TUNING_SEED = 10_000

# (share of the real images, arm, seed)
Fit = tuple[float, str, int]


@dataclasses.dataclass(frozen=True, kw_only=True)
class UtilitySettings:
  """How the worth is measured; the defaults are for images of 64 pixels.

  Attributes:
    network: of all classifiers; its `num_steps` is the number of updates of every arm,
      its seed is not used.
    seeds: one training of each arm each; also choose the real images of a share.
    fractions: shares of the real training images, in (0, 1]; empty for no curve.
    curve_arms: of the curve, any of `CURVE_ARMS`.
    pretraining_share: of the updates of "synthetic_then_real", in (0, 1).
    fine_tuning_scale: of the learning rate in its second phase.
    min_images: that may be trained on.
    min_positives: images with a finding in the test set, for it to count in the macro
      means; so many of a finding that counts each training set must have as well.
    num_replicates: of the bootstrap.

  Raises:
    errors.InputError: values outside of these ranges.
  """

  network: ProbeSettings = dataclasses.field(
    default_factory=lambda: ProbeSettings(stem_stride=4, num_steps=300)
  )
  seeds: tuple[int, ...] = (0, 1, 2)
  fractions: tuple[float, ...] = (0.01, 0.1, 0.3, 1.0)
  curve_arms: tuple[str, ...] = CURVE_ARMS
  pretraining_share: float = 0.5
  fine_tuning_scale: float = 1.0
  min_images: int = 20
  min_positives: int = 5
  num_replicates: int = 1000

  def __post_init__(self):
    for told, right, expected in (
      (self.fractions, all(0 < x <= 1 for x in self.fractions), "shares in (0, 1]"),
      (
        self.seeds,
        0 < len(self.seeds) == len({*self.seeds}) and min(self.seeds) >= 0,
        "one or more numbers, each once",
      ),
      (self.curve_arms, {*self.curve_arms} <= {*CURVE_ARMS}, ", ".join(CURVE_ARMS)),
      (
        self.pretraining_share,
        0
        < round(self.pretraining_share * self.network.num_steps)
        < self.network.num_steps,
        "a share that leaves either phase an update",
      ),
    ):
      if not right:
        raise errors.InputError(f"settings of utility: {told}", expected)


def fits(num_real: int, settings: UtilitySettings) -> list[Fit]:
  """What is trained, seed after seed: all arms, then the shares with enough images."""
  pairs = [(1.0, arm) for arm in ARMS]
  for fraction in settings.fractions:
    if round(fraction * num_real) >= settings.min_images:
      pairs += [(float(fraction), arm) for arm in settings.curve_arms]
  return [(*pair, seed) for seed in settings.seeds for pair in dict.fromkeys(pairs)]


def phases(
  fit: Fit, real: Source, synthetic: Source, settings: UtilitySettings
) -> list[Phase]:
  """What a fit is trained on, one after the other."""
  fraction, arm, seed = fit
  network = dataclasses.replace(settings.network, seed=seed)
  mine = (real, share_rows(real.patients, fraction, seed))
  made = (synthetic, np.arange(len(synthetic.images)))
  if arm != "synthetic_then_real":
    parts = {REAL: [mine], "tstr": [made], "real_and_synthetic": [mine, made]}[arm]
    return [Phase(parts=parts, settings=network)]
  before = round(settings.pretraining_share * network.num_steps)
  tuning = dataclasses.replace(
    network,
    num_steps=network.num_steps - before,
    learning_rate=settings.fine_tuning_scale * network.learning_rate,
    seed=seed + _FINE_TUNING_SEED,
  )
  first = dataclasses.replace(network, num_steps=before)
  return [
    Phase(parts=[made], settings=first),
    Phase(parts=[mine], settings=tuning),
  ]


def share_rows(patients: np.ndarray, fraction: float, seed: int) -> np.ndarray:
  """Rows of a share of the images, patient after patient in an order of the seed.

  Of one seed, a smaller share lies within a larger one. Of the last patient, only some
  images may be taken, so that a share is as many images with every seed.

  Args:
    patients: [n] names.
    fraction: in (0, 1].
    seed: of the order.

  Returns:
    [round(fraction n)] int64, ascending.
  """
  names, places = np.unique(patients, return_inverse=True)
  order = np.random.default_rng([seed, 1]).permutation(len(names))
  by_patient = np.argsort(order[places], kind="stable")
  return np.sort(by_patient[: round(fraction * len(patients))])


def num_trained(arm: str, fraction: float, num_real: int, num_synthetic: int) -> int:
  """Images that an arm is trained on, with this share of the real ones."""
  real = 0 if arm == "tstr" else round(fraction * num_real)
  return real + (0 if arm == REAL else num_synthetic)


def judge(settings: UtilitySettings) -> str:
  """The classifiers in short, as `Measurement.judge`."""
  widths = "-".join(map(str, settings.network.widths))
  return f"classifier {widths}, {settings.network.num_steps} updates"


def describe(settings: UtilitySettings) -> str:
  """How the arms are trained and compared, in sentences."""
  network, seeds = settings.network, settings.seeds
  before = round(settings.pretraining_share * network.num_steps)
  return (
    f"Classifiers of {'-'.join(map(str, network.widths))} channels from random"
    f" parameters; {network.num_steps} updates of {network.batch_size} images in every"
    f" arm, of which synthetic then real makes {before} on synthetic and"
    f" {network.num_steps - before} on real images; {len(seeds)} seeds, each with its"
    " own order of patients for the shares of real images; no choice of the best step"
    " or threshold. Intervals (95 %) are over seeds and test patients drawn anew;"
    " differences to real only are paired by both."
  )
