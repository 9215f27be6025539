"""The real images and networks used to judge all generated images of a dataset.

records(split) --selection--> conditions, reference
records(train) --probe_fit--> judge
available networks --------> extractors --features--> of conditions, reference, training

Shared by all compared runs. Features of real images are cached next to the records.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools
import pathlib

import numpy as np

from cxr_diffusion_jax import artifacts, types
from cxr_diffusion_jax.data.image_sets import image_set
from cxr_diffusion_jax.data.image_sets.image_set import ImageSet
from cxr_diffusion_jax.data.records import records as records_lib
from cxr_diffusion_jax.data.settings import DataSettings
from cxr_diffusion_jax.encoders.elixr import zero_shot as elixr_zero_shot
from cxr_diffusion_jax.encoders.extractors import classifiers as classifiers_lib
from cxr_diffusion_jax.encoders.extractors import opening as features_lib
from cxr_diffusion_jax.encoders.extractors.extractor import Extractor
from cxr_diffusion_jax.encoders.extractors.onnx_network import open_embedding
from cxr_diffusion_jax.encoders.extractors.segmenter import open_segmenter
from cxr_diffusion_jax.encoders.probes import probe
from cxr_diffusion_jax.evaluation import real_sets
from cxr_diffusion_jax.evaluation.judges import opening as judges_lib
from cxr_diffusion_jax.evaluation.measurement import Measurement
from cxr_diffusion_jax.evaluation.metrics import privacy
from cxr_diffusion_jax.evaluation.metrics import (
  reidentification as reidentification_lib,
)
from cxr_diffusion_jax.run import run as run_lib

# Preferred extractors for figures that need only one; closest to chest X-rays first.
PREFERRED = ("rad_dino", "elixr_c", "densenet", "clip", "inception", "probe")


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class EvalContext:
  """Everything that generated images are compared with.

  Attributes:
    judge: a classifier of findings, trained on other images than conditions and
      reference; None for none.
    classifiers: those among the judges that others have trained.
    segmenter: the user's, of heart and lungs.
    reidentification: the user's network that recognises patients.
    features: extractor -> "conditions", "reference", "training" and, of runs, "split"
      -> [n d].
    judges_of: opens the judges for other conditions, since some compare each image with
      the real image of its condition.
    aligned: whether generated image i is of condition i.
  """

  split: str
  conditions: ImageSet  # real images that conditions come from
  reference: ImageSet  # real images of other patients, that figures compare with
  training: ImageSet | None  # of the model; None if unknown
  judge: probe.Probe | None
  judges: Sequence[judges_lib.JudgeFn]
  extractors: Sequence[Extractor]
  skipped: Mapping[str, str]
  features: Mapping[str, Mapping[str, np.ndarray]]
  settings: DataSettings | None = None  # None for folders of images
  records: records_lib.Records | None = None  # None for folders of images
  classifiers: Sequence[classifiers_lib.Classifier] = ()
  scorer: elixr_zero_shot.Scorer | None = None  # of the judge ELIXR
  segmenter: Extractor | None = None
  reidentification: Extractor | None = None
  origin: str = "real images"
  cache: pathlib.Path | None = None
  aligned: bool = True
  whole: ImageSet | None = None  # of the split; None for folders of images
  judges_of: Callable[[ImageSet], list[judges_lib.JudgeFn]] | None = None

  def of_run(self, run: run_lib.Run) -> "EvalContext":
    """With the images that a run's conditions are made from as conditions.

    Their findings are what was requested, and their patients those of the generated
    images; so judges, distances and pictures use them. Floors and ceilings remain those
    of this context.
    """
    if run.needs.reference == "self" or self.whole is None:
      return self
    places = {str(name): row for row, name in enumerate(self.whole.ids)}
    partner = real_sets.reference_rows(run, self.split, len(self.whole))
    rows = partner[[places[str(name)] for name in self.conditions.ids]]
    conditions = self.whole.take(rows, f"{self.split}, references")
    return dataclasses.replace(
      self,
      conditions=conditions,
      judges=self.judges_of(conditions) if self.judges_of else self.judges,
      features={
        name: {**sets, "conditions": sets["split"][rows]}
        for name, sets in self.features.items()
      },
    )

  @functools.cached_property
  def ceilings(self) -> list[Measurement]:
    """Figures of the judges on the real images of the conditions."""
    features = {name: sets["conditions"] for name, sets in self.features.items()}
    return judges_lib.measure_all(self.judges, self.conditions, "real", features)

  @functools.cached_property
  def privacy_reference(self) -> privacy.Reference:
    """How near real images of the reference are to training images."""
    assert self.training is not None
    extractor = self.preferred
    features = self.features[extractor.name]
    return privacy.make_reference(
      features["training"],
      features["reference"],
      training=self.training,
      test=self.reference,
      extractor=extractor,
      cache=self.cache,
      key="train",
    )

  @property
  def preferred(self) -> Extractor:
    """The extractor for figures that need only one: a published one if any."""
    return min(
      self.extractors, key=lambda one: (one.standin, PREFERRED.index(one.name))
    )

  @property
  def judge_name(self) -> str:
    """The judge's name in tables."""
    return judge_name(self.origin) if self.judge else "none"


def of_runs(
  runs: Sequence[run_lib.Run],
  *,
  split: str = "test",
  num: int | None = None,
  per_patient: int = 0,
  features: Sequence[str] = ("auto",),
  weights: Mapping[str, str] | None = None,
  classifiers: Sequence[str] = (),
  probe_changes: artifacts.JsonMapping | None = None,
  elixr_models: str = "",
  segmenter: str = "",
  reidentification: str = "",
  progress: types.Progress = types.no_progress,
) -> EvalContext:
  """Prepares the evaluation of runs on the same records.

  Args:
    probe_changes: to the probe's `default_settings`.
    segmenter: the user's NAME.onnx, as `reidentification`; "" for none.

  Raises:
    errors.InputError: no such split, too few images, or unavailable features.
  """
  dataset, settings = runs[0].dataset, runs[0].data
  # Refuses files that do not fit before any long work.
  organs = open_segmenter(segmenter) if segmenter else None
  identifying = open_embedding(reidentification) if reidentification else None
  records = dataset.records
  whole, sets = real_sets.select(runs, split, num, per_patient)
  opened = classifiers_lib.open_classifiers(weights, files=classifiers)
  train_fn = functools.cache(lambda: train_judge(records, probe_changes, progress))
  extractors, skipped = features_lib.open_extractors(
    features, settings=settings, probe_fn=train_fn, weights=weights
  )
  judge = train_fn()
  by_prompts = judges_lib.of_prompts(extractors, weights or {}, settings, records)
  scorer = elixr_zero_shot.open_scorer(settings, elixr_models)
  judges_of, without = _open_judges(
    runs[0], judge, opened, sets, scorer, organs, by_prompts, progress
  )
  if identifying is None:
    without["re-identification"] = reidentification_lib.NO_NETWORK
  return EvalContext(
    settings=settings,
    records=records,
    split=split,
    origin=dataset.origin,
    conditions=sets["conditions"],
    reference=sets["reference"],
    training=sets["training"],
    judge=judge,
    judges=judges_of(sets["conditions"]),
    classifiers=opened,
    scorer=None if isinstance(scorer, str) else scorer,
    segmenter=organs,
    reidentification=identifying,
    extractors=extractors,
    skipped=skipped | without,
    features=real_sets.features(_cache(records), extractors, whole, sets, progress),
    cache=_cache(records),
    whole=whole,
    judges_of=judges_of,
  )


def _cache(records: records_lib.Records) -> pathlib.Path:
  """Where features of the records' images are kept."""
  return records.folder / "features"


def _open_judges(
  run: run_lib.Run,
  judge: probe.Probe,
  classifiers: Sequence[classifiers_lib.Classifier],
  sets: Mapping[str, ImageSet],
  scorer: elixr_zero_shot.Scorer | str,
  segmenter: Extractor | None,
  by_prompts: judges_lib.JudgeFn | str,
  progress: types.Progress,
) -> tuple[Callable[[ImageSet], list[judges_lib.JudgeFn]], dict[str, str]]:
  """Conditions -> their judges; and why others are unavailable."""
  records, name = run.dataset.records, judge_name(run.dataset.origin)
  judges, without = judges_lib.open_judges(
    judge,
    name,
    scorer,
    classifiers=classifiers,
    validation=image_set.of_records(records, "validation"),
    cache=_cache(records),
    progress=progress,
  )
  open_aligned = judges_lib.aligned_judges(
    run.data.root, records, sets["training"], judge, name, segmenter, progress
  )
  _, not_aligned = open_aligned(sets["conditions"])
  if isinstance(by_prompts, str):
    without["image-text alignment"] = by_prompts
  else:
    judges.append(by_prompts)

  def judges_of(conditions: ImageSet) -> list[judges_lib.JudgeFn]:
    return [*judges, *open_aligned(conditions)[0]]

  return judges_of, without | not_aligned


def of_split(
  context: EvalContext,
  runs: Sequence[run_lib.Run],
  split: str,
  *,
  num: int,
  per_patient: int = 0,
  progress: types.Progress = types.no_progress,
) -> EvalContext:
  """The same networks for another split; see `real_sets.select_at_most`.

  Raises:
    errors.InputError: too few images in the split.
  """
  assert context.cache is not None
  assert context.judges_of is not None
  whole, sets = real_sets.select_at_most(runs, split, num, per_patient)
  return dataclasses.replace(
    context,
    split=split,
    conditions=sets["conditions"],
    reference=sets["reference"],
    judges=context.judges_of(sets["conditions"]),
    features=real_sets.features(
      context.cache, context.extractors, whole, sets, progress
    ),
    whole=whole,
  )


def judge_name(origin: str) -> str:
  """The name of a probe in tables.

  Args:
    origin: of the images that it is trained on, as of `Dataset`.
  """
  return f"probe, trained on {origin}"


def train_judge(
  records: records_lib.Records,
  changes: artifacts.JsonMapping | None = None,
  progress: types.Progress = types.no_progress,
) -> probe.Probe:
  """The classifier of findings of these records, kept next to them."""
  training, validation = (
    image_set.of_records(records, split) for split in ("train", "validation")
  )
  return probe.train_probe(
    training.images,
    training.labels["findings"],
    records.folder / "probe",
    validation=(validation.images, validation.labels["findings"]),
    changes=changes,
    progress=progress,
  )
