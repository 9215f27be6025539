"""The arms of an experiment on training data, and the data of each.

settings -> fits: (fraction of the real images, arm, seed) -> phases: images of each

Each phase is trained until the AUROC of real validation patients has reached a plateau.
"""

import dataclasses
from types import MappingProxyType

import numpy as np

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.encoders.probes.mixture_fit import Phase, Source
from cxr_diffusion_jax.encoders.probes.probe_settings import ProbeSettings

# Beyond once as many.
_TIMES = (2, 3, 4, 5)

REAL = "real"
BOTH = "real_and_synthetic"

# Arm -> times as many synthetic images as settings state.
RATIOS = MappingProxyType({BOTH: 1} | {f"{BOTH}_{ratio}x": ratio for ratio in _TIMES})

# All arms; those of ratios are trained where settings name the ratio.
ARMS = (REAL, "tstr", *RATIOS, "synthetic_then_real")

# Arms that depend on the fraction of the real images.
CURVE_ARMS = (REAL, BOTH, "synthetic_then_real")

# Fewest images of a training set.
MIN_IMAGES = 20

# Images with a finding in the test set, for it to count in the macro means; each
# training set needs as many of one of these findings.
MIN_POSITIVES = 5

# Between the seeds of a training and of its fine-tuning.
_FINE_TUNING_SEED = 10_000

# (fraction of the real images, arm, seed)
Fit = tuple[float, str, int]


@dataclasses.dataclass(frozen=True, kw_only=True)
class UtilitySettings:
  """How utility is measured; the defaults are for images of 64 pixels.

  Attributes:
    network: of all classifiers; its `num_steps` are updates of a phase at most, its
      seed is not used.
    ratios: of synthetic images that are added to the real ones, each from 1 to 5 times
      the images that other arms use; the first of them all.
    seeds: one training of each arm each; also choose the real images of a fraction.
  """

  network: ProbeSettings = dataclasses.field(
    default_factory=lambda: ProbeSettings(stem_stride=4)
  )
  seeds: tuple[int, ...] = (0, 1, 2)
  fractions: tuple[float, ...] = (0.01, 0.1, 0.3, 1.0)
  ratios: tuple[int, ...] = (1,)

  def __post_init__(self):
    distinct = 0 < len(self.seeds) == len({*self.seeds}) and min(self.seeds) >= 0
    counted = len({*self.ratios}) == len(self.ratios) > 0
    counted = counted and {*self.ratios} <= {*RATIOS.values()}
    for value, valid, expected in (
      (self.fractions, all(0 < x <= 1 for x in self.fractions), "shares in (0, 1]"),
      (self.seeds, distinct, "one or more numbers, each once"),
      (self.ratios, counted, "one or more of 1 to 5, each once"),
    ):
      if not valid:
        raise errors.InputError(f"settings of utility: {value}", expected)

  @property
  def arms(self) -> tuple[str, ...]:
    """Those that are trained, of `ARMS`."""
    left_out = {arm for arm, ratio in RATIOS.items() if ratio not in self.ratios}
    return tuple(arm for arm in ARMS if arm not in left_out)

  @property
  def judge(self) -> str:
    """The classifiers in short, as `Measurement.judge`."""
    widths = "-".join(map(str, self.network.widths))
    return f"classifier {widths}, to a plateau"


def fits(num_real: int, settings: UtilitySettings) -> list[Fit]:
  """All trainings, by seed: all arms, then the fractions with enough images."""
  pairs = [(1.0, arm) for arm in settings.arms]
  for fraction in settings.fractions:
    if round(fraction * num_real) >= MIN_IMAGES:
      pairs += [(float(fraction), arm) for arm in CURVE_ARMS if arm in settings.arms]
  return [(*pair, seed) for seed in settings.seeds for pair in dict.fromkeys(pairs)]


def phases(
  fit: Fit, real: Source, synthetic: Source, settings: UtilitySettings
) -> list[Phase]:
  """The phases of a training, in order."""
  fraction, arm, seed = fit
  network = dataclasses.replace(settings.network, seed=seed)
  of_real = (real, share_rows(real.patients, fraction, seed))
  num = num_synthetic(arm, len(synthetic.images), settings)
  of_synthetic = (synthetic, np.arange(num))
  if arm != "synthetic_then_real":
    parts = {REAL: [of_real], "tstr": [of_synthetic]}
    parts = parts.get(arm, [of_real, of_synthetic])
    return [Phase(parts=parts, settings=network)]
  tuning = dataclasses.replace(network, seed=seed + _FINE_TUNING_SEED)
  return [
    Phase(parts=[of_synthetic], settings=network),
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


def num_synthetic(arm: str, num: int, settings: UtilitySettings) -> int:
  """Of `num` synthetic images, those that an arm is trained on."""
  if arm == REAL:
    return 0
  return num * RATIOS.get(arm, 1) // max(settings.ratios)


def num_trained(
  arm: str, fraction: float, numbers: tuple[int, int], settings: UtilitySettings
) -> int:
  """Images that an arm is trained on, of these numbers of real and synthetic ones."""
  real = 0 if arm == "tstr" else round(fraction * numbers[0])
  return real + num_synthetic(arm, numbers[1], settings)
