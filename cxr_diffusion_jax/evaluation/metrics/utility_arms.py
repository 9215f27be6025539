"""The arms of an experiment on training data, and the data of each.

settings -> fits: (fraction of the real images, arm, seed) -> phases: images, updates
"""

import dataclasses

import numpy as np

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.encoders.probes.mixture_fit import Phase, Source
from cxr_diffusion_jax.encoders.probes.probe_fit import ProbeSettings

REAL = "real"
ARMS = (REAL, "tstr", "real_and_synthetic", "synthetic_then_real")

# Arms that depend on the fraction of the real images.
CURVE_ARMS = (REAL, "real_and_synthetic", "synthetic_then_real")

# Between the seeds of a training and of its fine-tuning.
_FINE_TUNING_SEED = 10_000

# (fraction of the real images, arm, seed)
Fit = tuple[float, str, int]


@dataclasses.dataclass(frozen=True, kw_only=True)
class UtilitySettings:
  """How utility is measured; the defaults are for images of 64 pixels.

  Attributes:
    network: of all classifiers; its `num_steps` is the number of updates of every arm,
      its seed is not used.
    seeds: one training of each arm each; also choose the real images of a fraction.
    curve_arms: of the curve, any of `CURVE_ARMS`.
    pretraining_share: of the updates of "synthetic_then_real", in (0, 1).
    min_positives: images with a finding in the test set, for it to count in the macro
      means; each training set needs as many of one of these findings.
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

  def __post_init__(self):
    distinct = 0 < len(self.seeds) == len({*self.seeds}) and min(self.seeds) >= 0
    known = {*self.curve_arms} <= {*CURVE_ARMS}
    two_phases = 0 < self.num_pretraining < self.network.num_steps
    for value, valid, expected in (
      (self.fractions, all(0 < x <= 1 for x in self.fractions), "shares in (0, 1]"),
      (self.seeds, distinct, "one or more numbers, each once"),
      (self.curve_arms, known, ", ".join(CURVE_ARMS)),
      (
        self.pretraining_share,
        two_phases,
        "a share that leaves either phase an update",
      ),
    ):
      if not valid:
        raise errors.InputError(f"settings of utility: {value}", expected)

  @property
  def num_pretraining(self) -> int:
    """Updates of the first phase of "synthetic_then_real"."""
    return round(self.pretraining_share * self.network.num_steps)

  @property
  def judge(self) -> str:
    """The classifiers in short, as `Measurement.judge`."""
    widths = "-".join(map(str, self.network.widths))
    return f"classifier {widths}, {self.network.num_steps} updates"


def fits(num_real: int, settings: UtilitySettings) -> list[Fit]:
  """All trainings, by seed: all arms, then the fractions with enough images."""
  pairs = [(1.0, arm) for arm in ARMS]
  for fraction in settings.fractions:
    if round(fraction * num_real) >= settings.min_images:
      pairs += [(float(fraction), arm) for arm in settings.curve_arms]
  return [(*pair, seed) for seed in settings.seeds for pair in dict.fromkeys(pairs)]


def phases(
  fit: Fit, real: Source, synthetic: Source, settings: UtilitySettings
) -> list[Phase]:
  """The phases of a training, in order."""
  fraction, arm, seed = fit
  network = dataclasses.replace(settings.network, seed=seed)
  of_real = (real, share_rows(real.patients, fraction, seed))
  of_synthetic = (synthetic, np.arange(len(synthetic.images)))
  if arm != "synthetic_then_real":
    parts = {
      REAL: [of_real],
      "tstr": [of_synthetic],
      "real_and_synthetic": [of_real, of_synthetic],
    }[arm]
    return [Phase(parts=parts, settings=network)]
  tuning = dataclasses.replace(
    network,
    num_steps=network.num_steps - settings.num_pretraining,
    learning_rate=settings.fine_tuning_scale * network.learning_rate,
    seed=seed + _FINE_TUNING_SEED,
  )
  first = dataclasses.replace(network, num_steps=settings.num_pretraining)
  return [
    Phase(parts=[of_synthetic], settings=first),
    Phase(parts=[of_real], settings=tuning),
  ]


def share_rows(patients: np.ndarray, fraction: float, seed: int) -> np.ndarray:
  """Rows of a fraction of the images, by patient, in an order of the seed.

  For one seed, a smaller fraction lies within a larger one. Only some images of the
  last patient may be taken, so that a fraction has as many images with every seed.
  """
  names, places = np.unique(patients, return_inverse=True)
  order = np.random.default_rng([seed, 1]).permutation(len(names))
  by_patient = np.argsort(order[places], kind="stable")
  return np.sort(by_patient[: round(fraction * len(patients))])


def num_trained(arm: str, fraction: float, num_real: int, num_synthetic: int) -> int:
  """Images that an arm is trained on, with this fraction of the real ones."""
  real = 0 if arm == "tstr" else round(fraction * num_real)
  return real + (0 if arm == REAL else num_synthetic)
