"""Images of any model, judged by their files alone: two folders, and labels if any.

real folder --by patient--> judge's training | held out (the floor) | reference
synthetic folder --extractors, judge--> figures, as those of a run

Without a probe that is given, real images with findings are parted: three fifths train
and validate the judge, and only the others are compared with anything.
"""

from collections.abc import Sequence
import dataclasses
import pathlib

import numpy as np

from cxr_diffusion_jax import errors, types
from cxr_diffusion_jax.evaluation import assessment, image_folder, selection
from cxr_diffusion_jax.evaluation import eval_context as bench_lib
from cxr_diffusion_jax.evaluation import features as features_lib
from cxr_diffusion_jax.evaluation.comparison import facts as comparison_facts
from cxr_diffusion_jax.evaluation.comparison import pooling
from cxr_diffusion_jax.evaluation.comparison import runs as comparison
from cxr_diffusion_jax.evaluation.comparison.data import Comparison, PathResult
from cxr_diffusion_jax.evaluation.comparison.path_assessment import Options
from cxr_diffusion_jax.evaluation.eval_context import Bench
from cxr_diffusion_jax.evaluation.image_set import ImageSet
from cxr_diffusion_jax.evaluation.judges import opening as judges_lib
from cxr_diffusion_jax.evaluation.judges import probe
from cxr_diffusion_jax.evaluation.measurement import Measurement

# Real images with findings that a judge is trained on, at least.
MIN_TRAINING = 100

# Shares of real images that train the judge, and that its thresholds come from.
TRAINING_SHARE, VALIDATION_SHARE = 0.5, 0.1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Folders:
  """Where images are.

  Attributes:
    real: folder.
    synthetic: folder.
    training: folder of what the model was trained on; None if not known.
    labels: CSV of findings of either; None for none.
    probe: folder of a trained probe; None for none.
    image_size: pixels of a side that all are brought to; None as they are.
  """

  real: str
  synthetic: str
  training: str | None = None
  labels: str | None = None
  probe: str | None = None
  image_size: int | None = None


def compare(
  folders: Folders,
  out: pathlib.Path,
  options: Options,
  *,
  progress: types.Progress = types.no_progress,
) -> Comparison:
  """Judges the synthetic folder.

  Args:
    folders: of the images.
    out: receives metrics.json, and keeps the judge.
    options: how; what concerns generating has no effect.
    progress: told during long work.

  Raises:
    errors.InputError: folders that do not fit together, too few images, or no network
      to look at them with.
  """
  real, synthetic, training = _read(folders, progress)
  judge, rest = _judge(real, folders, out, progress)
  extractors, skipped = features_lib.open_extractors(
    options.features, probe=judge, weights=options.weights
  )
  if not extractors:
    raise errors.InputError(
      "no network to look at the images with",
      "weights, a probe, or findings of real images to train one on",
      "--weights rad_dino=FOLDER, --probe FOLDER, or --labels of the real images too",
    )
  bench = _bench(rest, len(synthetic), training, judge, extractors, progress)
  bench = dataclasses.replace(bench, skipped=skipped | bench.skipped)
  made = assessment.Made(
    images=synthetic,
    features={
      one.name: features_lib.extract(
        one, synthetic.images, key="synthetic", progress=progress
      )
      for one in extractors
    },
  )
  subjects = [one for one in assessment.MEASURES if one in options.subjects]
  found = assessment.assess(bench, made, subjects, progress=progress)
  pooled, _ = pooling.pool([[found.measurements]])
  compared = _comparison(bench, made, found, pooled)
  comparison.write_metrics(compared, out / comparison.METRICS)
  return compared


def _read(
  folders: Folders, progress: types.Progress
) -> tuple[ImageSet, ImageSet, ImageSet | None]:
  """Real, synthetic and, where they are known, training images, of one size."""
  real, synthetic = image_folder.read_pair(
    folders.real,
    folders.synthetic,
    folders.labels,
    image_size=folders.image_size,
    progress=progress,
  )
  training = None
  if folders.training:
    training = image_folder.read(
      folders.training, image_size=folders.image_size, progress=progress
    )
    image_folder.check_pair(real, training)
  return real, synthetic, training


def _bench(
  rest: ImageSet,
  num_synthetic: int,
  training: ImageSet | None,
  judge: probe.Probe | None,
  extractors: Sequence[features_lib.Extractor],
  progress: types.Progress,
) -> Bench:
  """Half of the real images, or as many as are synthetic, are the floor's."""
  num = min(num_synthetic, len(rest) // 2)
  held_out, reference = selection.choose(rest.ids, _patients(rest), num=num)
  sets = {
    "conditions": rest.take(held_out, "real, held out"),
    "reference": rest.take(reference, "real, of others"),
  }
  if training is not None:
    sets["training"] = training
  features = {
    one.name: {
      name: features_lib.extract(one, images.images, key=name, progress=progress)
      for name, images in sets.items()
    }
    for one in extractors
  }
  judges, unheard = judges_lib.open_judges(
    judge, bench_lib.judge_name(phantom=False), None, progress=progress
  )
  return Bench(
    settings=None,
    records=None,
    split="real",
    phantom=False,
    conditions=sets["conditions"],
    reference=sets["reference"],
    training=training,
    judge=judge,
    judges=judges,
    extractors=extractors,
    skipped=unheard,
    features=features,
    aligned=False,
  )


def _comparison(
  bench: Bench,
  made: assessment.Made,
  found: assessment.Assessment,
  pooled: Sequence[Measurement],
) -> Comparison:
  """What is shown of images that no run here made."""
  images = made.images.images
  rows = np.linspace(
    0, min(len(images), len(bench.conditions)) - 1, comparison_facts.NUM_SHOWN
  )
  rows = np.unique(rows.astype(int)).tolist()
  result = PathResult(
    name=made.images.name,
    runs=(),
    images=comparison_facts.stack(images, rows),
    measurements=pooled,
    features=made.features,
    losses={},
    sweep=(),
    **comparison_facts.neighbours(bench, images, found),
    description="a folder of images",
  )
  return Comparison(
    title=f"{made.images.name} against real images",
    facts={
      "synthetic": f"{len(made.images):,} images, {made.images.name}",
      "held out": f"{len(bench.conditions):,} real images: the floor",
      "reference": f"{len(bench.reference):,} other real images",
      **comparison_facts.judges(bench),
      **comparison_facts.command("evaluate"),
    },
    warnings=[],
    differences={},
    paths=[result],
    real=[
      *assessment.floors(bench),
      *bench.ceilings,
      *(one for one in found.measurements if one.of == "real"),
    ],
    verdicts=[],
    shown=comparison_facts.stack(bench.conditions.images, rows),
    captions=["any real image"] * len(rows),
    real_features={
      name: of_sets["reference"] for name, of_sets in bench.features.items()
    },
    limitations=comparison_facts.limitations(bench),
  )


def _judge(
  real: ImageSet, folders: Folders, out: pathlib.Path, progress: types.Progress
) -> tuple[probe.Probe | None, ImageSet]:
  """A classifier of findings, if there is one, and the images it was not trained on."""
  if folders.probe:
    return probe.load_probe(pathlib.Path(folders.probe)), real
  if "findings" not in real.labels or len(real) * TRAINING_SHARE < MIN_TRAINING:
    return None, real
  parts = {}
  rest = real
  for name, share in (("train", TRAINING_SHARE), ("validation", VALIDATION_SHARE)):
    num = round(share * len(real))
    taken, others = selection.choose(rest.ids, _patients(rest), num=num)
    parts[name], rest = rest.take(taken), rest.take(others)
  judge = probe.train_probe(
    parts["train"].images,
    np.asarray(parts["train"].labels["findings"]),
    out / "probe",
    validation=(
      parts["validation"].images,
      np.asarray(parts["validation"].labels["findings"]),
    ),
    progress=progress,
  )
  return judge, rest


def _patients(images: ImageSet) -> np.ndarray:
  """[n]; each image is a patient of its own where none is known."""
  return np.asarray(images.labels.get("patient", images.ids))
