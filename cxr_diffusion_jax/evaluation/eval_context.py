"""What all generated images of some records are judged by: real images and networks.

records(split) --selection--> conditions, reference
records(train) --probe_fit--> judge
networks at hand ----------> extractors --features--> of conditions, reference, training

Everything here is the same for all runs that are compared, and features of real images
are kept beside their records.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import functools
import pathlib

import numpy as np

from cxr_diffusion_jax import types
from cxr_diffusion_jax.data.records import records as records_lib
from cxr_diffusion_jax.data.settings import DataSettings
from cxr_diffusion_jax.encoders.standin import tree as standin_tree
from cxr_diffusion_jax.evaluation import features as features_lib
from cxr_diffusion_jax.evaluation import image_set, selection
from cxr_diffusion_jax.evaluation.features import Extractor
from cxr_diffusion_jax.evaluation.image_set import ImageSet
from cxr_diffusion_jax.evaluation.judges import opening as judges_lib
from cxr_diffusion_jax.evaluation.judges import probe
from cxr_diffusion_jax.evaluation.measurement import Measurement
from cxr_diffusion_jax.evaluation.metrics import privacy_reference
from cxr_diffusion_jax.run import run as run_lib

# For figures that one extractor is enough for: closest to chest X-rays first.
PREFERRED = ("rad_dino", "elixr_c", "densenet", "clip", "inception", "probe")


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Bench:
  """What is there to judge images with.

  Attributes:
    settings: of the data; None of folders.
    records: all real images; None of folders.
    split: that conditions and reference are from.
    phantom: whether the images are phantoms.
    conditions: real images that are asked for again; of other patients than all below.
    reference: real images that generated ones are compared with.
    training: what the model was trained on; None if not known.
    judge: a classifier of findings, trained on other images than conditions and
      reference; None for none.
    judges: of what was asked for, `judge` among them.
    extractors: what features are made by.
    skipped: extractors and judges that are not there: name -> reason.
    features: extractor -> "conditions", "reference", "training" -> [n d].
    cache: folder that features of real images are kept in; None for none.
    aligned: whether generated image i was made for condition i.
  """

  settings: DataSettings | None
  records: records_lib.Records | None
  split: str
  phantom: bool
  conditions: ImageSet
  reference: ImageSet
  training: ImageSet | None
  judge: probe.Probe | None
  judges: Sequence[judges_lib.JudgeFn]
  extractors: Sequence[Extractor]
  skipped: Mapping[str, str]
  features: Mapping[str, Mapping[str, np.ndarray]]
  cache: pathlib.Path | None = None
  aligned: bool = True

  @functools.cached_property
  def ceilings(self) -> list[Measurement]:
    """What the judges say of the real images of the conditions."""
    return judges_lib.measure_all(self.judges, self.conditions, "real")

  @functools.cached_property
  def privacy_reference(self) -> privacy_reference.Reference:
    """How near real images of the reference are to training images."""
    extractor = preferred(self.extractors)
    features = self.features[extractor.name]
    return privacy_reference.make_reference(
      features["training"],
      features["reference"],
      training=self.training,
      test=self.reference,
      extractor=extractor,
      cache=self.cache,
      key="train",
    )

  @property
  def judge_name(self) -> str:
    """What tables call the judge."""
    return judge_name(self.phantom) if self.judge else "none"


def of_runs(
  runs: Sequence[run_lib.Run],
  *,
  split: str = "test",
  num: int | None = None,
  features: Sequence[str] = ("auto",),
  weights: Mapping[str, str] | None = None,
  elixr_models: str = "",
  progress: types.Progress = types.no_progress,
) -> Bench:
  """Sets up what runs on the same records are judged by.

  Args:
    runs: with the same records.
    split: of the conditions.
    num: conditions; None for half of the split.
    features: names of extractors, or "auto".
    weights: extractor -> where its weights are.
    elixr_models: see `judges_lib.open_judges`.
    progress: told during long work.

  Raises:
    errors.InputError: no such split, too few images, or features that are not there.
  """
  first, settings = runs[0].dataset, runs[0].data
  records = first.records
  whole, sets = _select(runs, split, num)
  judge = train_judge(records, progress)
  extractors, skipped = features_lib.open_extractors(
    features, settings=settings, probe=judge, weights=weights
  )
  cache = records.folder / "features"
  name = judge_name(first.phantom)
  judges, unheard = judges_lib.open_judges(
    judge, name, settings, elixr_models=elixr_models, cache=cache, progress=progress
  )
  more = {
    "anatomy": judges_lib.of_anatomy(
      settings.root,
      sets["training"],
      sets["conditions"],
      records.folder / "measurer",
      progress=progress,
    ),
    "boxes": judges_lib.of_boxes(records, sets["conditions"], judge, name),
  }
  unheard |= {name: one for name, one in more.items() if isinstance(one, str)}
  judges += [one for one in more.values() if not isinstance(one, str)]
  return Bench(
    settings=settings,
    records=records,
    split=split,
    phantom=first.phantom,
    **sets,
    judge=judge,
    judges=judges,
    extractors=extractors,
    skipped=skipped | unheard,
    features=_real_features(records, extractors, split, whole, sets, progress),
    cache=cache,
  )


def _select(
  runs: Sequence[run_lib.Run], split: str, num: int | None
) -> tuple[ImageSet, dict[str, ImageSet]]:
  """The whole split; and its conditions and reference, and the training images."""
  records = runs[0].dataset.records
  whole = image_set.of_records(records, split)
  usable = []
  for run in runs:
    source = run.dataset.source(split)
    has = np.zeros(len(whole), bool)
    has[source.row[source.reference_row >= 0]] = True
    usable.append(has)
  conditions, reference = selection.choose(
    whole.ids, whole.labels["patient"], usable=selection.common(usable), num=num
  )
  return whole, {
    "conditions": whole.take(conditions, f"{split}, asked for"),
    "reference": whole.take(reference, f"{split}, other patients"),
    "training": image_set.of_records(records, "train"),
  }


def judge_name(phantom: bool) -> str:
  """What tables call a probe."""
  return f"probe, trained on {'phantoms' if phantom else 'real images'}"


def preferred(extractors: Sequence[Extractor]) -> Extractor:
  """The extractor for figures that one is enough for: a published one if any."""
  order = {name: rank for rank, name in enumerate(PREFERRED)}
  return min(extractors, key=lambda one: (one.standin, order[one.name]))


def train_judge(
  records: records_lib.Records, progress: types.Progress = types.no_progress
) -> probe.Probe:
  """The classifier of findings of these records, trained once on their training split.

  Args:
    records: it is kept beside them.
    progress: told during training.
  """
  of_split = {
    split: (standin_tree.Images(records, split), records.fields(split)["findings"])
    for split in ("train", "validation")
  }
  return probe.train_probe(
    *of_split["train"],
    records.folder / "probe",
    validation=of_split["validation"],
    progress=progress,
  )


def _real_features(
  records: records_lib.Records,
  extractors: Sequence[Extractor],
  split: str,
  whole: ImageSet,
  sets: Mapping[str, ImageSet],
  progress: types.Progress,
) -> dict[str, dict[str, np.ndarray]]:
  cache = records.folder / "features"
  place = {str(name): row for row, name in enumerate(whole.ids)}
  made = {}
  for extractor in extractors:
    training = sets["training"].images
    of_split, of_training = (
      features_lib.extract(extractor, images, cache=cache, key=key, progress=progress)
      for key, images in ((split, whole.images), ("train", training))
    )
    made[extractor.name] = {
      name: of_split[[place[str(one)] for one in sets[name].ids]]
      for name in ("conditions", "reference")
    } | {"training": of_training}
  return made
