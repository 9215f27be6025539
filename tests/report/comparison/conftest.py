"""A comparison of six paths as it may come out, with all that a page has to show."""

import pathlib

import numpy as np
import pytest

from cxr_diffusion_jax.data.sources.nih import metadata
from cxr_diffusion_jax.evaluation.comparison import data as comparison_data
from cxr_diffusion_jax.evaluation.measurement import Measurement
from cxr_diffusion_jax.extras.phantom import render
from cxr_diffusion_jax.report.comparison import page as comparison_page

PATHS = ("clip_text", "clip_vision", "elixr_b", "elixr_c", "elixr_bc", "findings")
PROBE, DINO = "probe, mean of the last maps", "rad_dino, class token after the norm"

# metric -> subject, better, the worst path's value, the best's, real images', judges
FIGURES = {
  "frechet_distance": ("fidelity", "lower", 48.0, 11.5, 3.1, (PROBE, DINO)),
  "kernel_distance": ("fidelity", "lower", 0.081, 0.012, 0.0004, (PROBE, DINO)),
  "precision": ("fidelity", "higher", 0.52, 0.81, 0.93, (PROBE, DINO)),
  "recall": ("fidelity", "higher", 0.18, 0.47, 0.91, (PROBE, DINO)),
  "auroc": ("adherence", "higher", 0.61, 0.88, 0.94, (PROBE,)),
  "average_precision": ("adherence", "higher", 0.22, 0.61, 0.72, (PROBE,)),
  "ms_ssim": ("diversity", "", 0.52, 0.36, 0.31, ("",)),
  "nearest_training_distance": ("privacy", "", 8.1, 9.4, 9.2, (PROBE,)),
}
GROUPS = ("sex: F", "sex: M", "age: 20-39", "age: 40-59", "view: PA", "view: AP")
SHOWN = ("Effusion", "Cardiomegaly", "Mass", "Pneumothorax", "Edema", "Nodule")


def measurement(metric, judge, share, *, group="all", of="generated", rng, num=2000):
  """Of a path that is `share` of the way from the worst to the best."""
  subject, better, worst, best, real, _ = FIGURES[metric]
  value = real if of == "real" else worst + share * (best - worst)
  half = abs(best - worst) * 0.06 * (2000 / num) ** 0.5
  value += half * 0.4 * rng.standard_normal()
  return Measurement(
    subject=subject,
    metric=metric,
    value=float(value),
    low=float(value - half),
    high=float(value + half),
    num=num,
    num_real=num if subject == "fidelity" else 0,
    judge=judge,
    standin=judge == PROBE,
    group=group,
    of=of,
    better=better,
  )


def undefined(metric: str, group: str, reason: str, of: str = "generated"):
  """A figure without a value."""
  subject, better, *_, judges = FIGURES[metric]
  return Measurement(
    subject=subject,
    metric=metric,
    value=None,
    reason=reason,
    num=0,
    judge=judges[0],
    standin=True,
    group=group,
    of=of,
    better=better,
  )


def measured(share: float, seed: int, of: str = "generated") -> list[Measurement]:
  """All figures of a path."""
  rng = np.random.default_rng(seed)
  result = [
    measurement(metric, judge, share, of=of, rng=rng)
    for metric, (*_, judges) in FIGURES.items()
    for judge in judges
  ]
  for finding in metadata.FINDINGS:
    group = f"finding: {finding}"
    if finding == "Hernia":
      result.append(undefined("auroc", group, "no image was asked to show it", of))
      continue
    own = np.clip(share + 0.15 * rng.standard_normal(), 0, 1)
    result.append(
      measurement("auroc", PROBE, own, group=group, of=of, rng=rng, num=140)
    )
  for group in GROUPS:
    for metric in ("frechet_distance", "precision"):
      result.append(
        measurement(metric, PROBE, share, group=group, of=of, rng=rng, num=500)
      )
  reason = "81 images, at least 100 are needed"
  result.append(undefined("frechet_distance", "age: 80-119", reason, of))
  return result


def verdict(metric: str, judge: str, paths, num_best: int, group: str = "all"):
  """The first `num_best` of a ranking cannot be distinguished; the others are worse."""
  subject, better, worst, best, *_ = FIGURES[metric]
  unit = abs(best - worst) * (1 if better == "lower" else -1)
  differences = []
  for place, path in enumerate(paths[1:], start=1):
    ends = (0.1, 0.3) if place >= num_best else (-0.05, 0.1)
    differences.append((path.name, *sorted(place * unit * end for end in ends)))
  return comparison_data.Verdict(
    key=(subject, metric, judge, group),
    ranking=[path.name for path in paths],
    best=[path.name for path in paths[:num_best]],
    differences=differences,
  )


def path_result(name: str, share: float, real: np.ndarray, seed: int):
  """A path whose images are blurred and noisy by what it lacks."""
  rng = np.random.default_rng(seed)
  lack = 1 - share
  soft = (
    sum(np.roll(real.astype(np.float32), s, a) for s in (-1, 1) for a in (1, 2)) / 4
  )
  images = real * (1 - lack) + soft * lack + rng.normal(0, 30 * lack, real.shape)
  images = np.clip(images, 0, 255).astype(np.uint8)
  features = {
    "probe": rng.normal(lack * 2, 1, (100, 12)) * np.linspace(3, 1, 12),
  }
  # More guidance: closer to the condition, and from some scale on farther from reality.
  closer, truer = (0.2, 0.6, 0.9, 1.0), (0.7, 1.0, 0.8, 0.3)
  steps = list(range(0, 2001, 100))
  decay = [0.06 * share + 0.9 * np.exp(-s / 300 / (0.5 + share)) + 0.05 for s in steps]
  runs = [f"{name}_seed{i}" for i in range(2)]
  curve = {
    "validation/loss": (steps, decay),
    "validation/loss_unconditional": (steps, [1.2 * x for x in decay]),
    "train/loss": (steps, decay),
  }
  return comparison_data.PathResult(
    name=name,
    runs=runs,
    images=images,
    measurements=measured(share, seed),
    features={k: v.astype(np.float32) for k, v in features.items()},
    losses=dict.fromkeys(runs, curve),
    sweep=[
      comparison_data.SweepPoint(
        guidance=scale,
        primary=measurement("frechet_distance", PROBE, truer[i] * share, rng=rng),
        fidelity=measurement("frechet_distance", PROBE, truer[i] * share, rng=rng),
        adherence=measurement("auroc", PROBE, closer[i] * share, rng=rng),
        chosen=scale == 2,
      )
      for i, scale in enumerate((1, 2, 4, 8))
    ],
    neighbours=np.stack([images[:4], np.roll(real, 1, axis=0)[:4]], axis=1),
    neighbour_captions=[
      f"distance {8.1 + i / 3:.2f}; training 000{i}_00{seed}.png" for i in range(4)
    ],
    description="phantom images, stand-in embeddings",
    curve=[
      (fraction, arm, measurement("auroc", "classifier", level * share + 0.3, rng=rng))
      for fraction, level in ((0.1, 0.3), (0.3, 0.5), (1.0, 0.6))
      for arm in ("real", "real_and_synthetic", "synthetic_then_real")
    ],
  )


def build(size: int = 64) -> comparison_data.Comparison:
  """The whole; `size` is the side of its images in pixels."""
  real = np.stack(
    [
      render.make_phantom(3, i, size=size, findings=(name,)).image[..., None]
      for i, name in enumerate(SHOWN)
    ]
  )
  shares = (0.05, 0.3, 0.45, 0.85, 0.95, 0.6)
  paths = [
    path_result(name, share, real, seed)
    for seed, (name, share) in enumerate(zip(PATHS, shares, strict=True))
  ]
  order = sorted(paths, key=lambda path: -shares[PATHS.index(path.name)])
  rng = np.random.default_rng(9)
  return comparison_data.Comparison(
    title="Six conditioning paths on phantom chest X-rays",
    facts={
      "Images": "2,000 of the test split, one for each condition and sampling seed",
      "Records": "12,000 phantom images of 64 pixels",
      "Training": "2 seeds, 20,000 steps of 64 images each",
      "Sampling": "3 seeds; 36 network evaluations an image; guidance 2",
      "Judges": f"{PROBE} (stand-in); {DINO}",
      "Intervals": "95 %, bootstrap over images and seeds, 1,000 replicates",
      "Command": "launch/compare_phantom.sh",
    },
    warnings=[
      "elixr_bc was trained for 18,000 steps, the others for 20,000.",
      "Embeddings are stand-ins, so that nothing is said of ELIXR itself.",
    ],
    differences={
      "conditioning.kind": dict(zip(PATHS, PATHS, strict=True)),
      "train.num_steps": dict.fromkeys(PATHS, "20000") | {"elixr_bc": "18000"},
    },
    paths=paths,
    real=measured(1.0, 77, "real"),
    verdicts=[
      verdict("frechet_distance", PROBE, order, 1),
      verdict("frechet_distance", DINO, order, 2),
      verdict("kernel_distance", PROBE, order, 2),
      verdict("kernel_distance", DINO, order, 6),
      verdict("precision", PROBE, order, 3),
      verdict("precision", DINO, order, 6),
      verdict("recall", PROBE, order, 6),
      verdict("auroc", PROBE, order, 1),
      verdict("average_precision", PROBE, order, 2),
      verdict("auroc", PROBE, order, 2, "finding: Effusion"),
    ],
    shown=real,
    captions=list(SHOWN),
    real_features={
      "probe": (rng.normal(0, 1, (100, 12)) * np.linspace(3, 1, 12)).astype("f4"),
    },
    limitations=["Phantoms are no patients: textures and anatomy are simplified."],
  )


@pytest.fixture(scope="session")
def comparison() -> comparison_data.Comparison:
  """As `build` makes it."""
  return build()


@pytest.fixture(scope="session")
def page(comparison, tmp_path_factory) -> pathlib.Path:
  """Its page, written once."""
  return comparison_page.write(comparison, tmp_path_factory.mktemp("comparison"))
