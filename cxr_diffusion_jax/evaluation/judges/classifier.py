"""Classifiers of findings that others have trained, as judges beside the probe.

images --network--> scores [n m] --findings that the dataset has too--> [n k]
validation patients: scores, labels --Youden--> thresholds [k]
  -> AUROC, average precision, found, false alarms of `adherence`

densenet   torchxrayvision's DenseNet-121: 18 logits, linear in its features
NAME.onnx  a user's network, see `onnx_network`

Means are over the findings that both vocabularies share. Without validation images
there is no threshold, and so neither found nor false alarms.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools
import pathlib
from types import MappingProxyType

import numpy as np

from cxr_diffusion_jax import errors, types
from cxr_diffusion_jax.data import labels as labels_lib
from cxr_diffusion_jax.data.image_sets.image_set import ImageSet
from cxr_diffusion_jax.encoders.extractors import extractor as extractor_lib
from cxr_diffusion_jax.encoders.extractors import networks, onnx_network
from cxr_diffusion_jax.encoders.extractors.extractor import Extractor
from cxr_diffusion_jax.encoders.probes import probe
from cxr_diffusion_jax.evaluation.judges import adherence
from cxr_diffusion_jax.evaluation.measurement import Fields, Measurement

# Names in other datasets -> torchxrayvision's, which renames them so too.
_ALIASES = MappingProxyType(
  {"pleural_effusion": "Effusion", "airspace_opacity": "Lung Opacity"}
)

# Figures that need a threshold.
_THRESHOLDED = ("found", "false_alarms")


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Classifier:
  """A network that scores findings.

  Attributes:
    title: its name in tables.
    findings: names of the m scores; "" for one that means nothing.
    head_fn: features of the extractor [n d] -> scores [n m], higher where seen.
  """

  title: str
  extractor: Extractor
  findings: tuple[str, ...]
  head_fn: Callable[[np.ndarray], np.ndarray]

  def places(self, vocabulary: Sequence[str]) -> dict[int, int]:
    """Column in a dataset's vocabulary -> column of the scores, of shared findings."""
    known = {_plain(name): m for m, name in enumerate(self.findings) if name}
    names = {k: _plain(name) for k, name in enumerate(vocabulary)}
    return {k: known[name] for k, name in names.items() if name in known}


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ClassifierJudge:
  """A classifier with thresholds of real validation patients.

  Attributes:
    validation: real images with their findings; None for none.
    cache: keeps the features of validation images.
  """

  classifier: Classifier
  validation: ImageSet | None = None
  cache: pathlib.Path | None = None
  progress: types.Progress = types.no_progress

  def measure(
    self, images: ImageSet, of: str, features: Mapping[str, np.ndarray]
  ) -> list[Measurement]:
    """The figures of images with their requested findings.

    Args:
      of: "generated" or "real".
      features: extractor -> [n d] of these images; computed where they are absent.

    Raises:
      errors.InputError: no shared finding, or none with enough images.
    """
    names = images.vocabulary
    places = self.classifier.places(names)
    if not places:
      raise errors.InputError(
        f"findings {', '.join(names)}",
        f"some of {', '.join(filter(None, self.classifier.findings))}",
      )
    columns = list(places)
    known = features.get(self.classifier.extractor.name)
    if known is None:
      known = self._extract(images)
    thresholds = self._thresholds
    figures = adherence.measure(
      self.classifier.head_fn(known)[:, list(places.values())],
      np.asarray(images.labels["findings"])[:, columns],
      np.zeros(len(columns)) if thresholds is None else thresholds,
      patients=images.patients,
    )
    fields = Fields(judge=self.classifier.title, of=of, patients=images.num_patients)
    measurements = adherence.to_measurements(
      figures, [names[k] for k in columns], **fields
    )
    reason = f"{self.classifier.extractor.name} does not score it"
    measurements += [
      record.measurement(
        fields, group=f"finding: {name}", value=None, reason=reason, num=len(images)
      )
      for record in adherence.FIGURES
      for k, name in enumerate(names)
      if k not in places
    ]
    without = _THRESHOLDED if thresholds is None else ()
    return [one for one in measurements if one.metric not in without]

  @functools.cached_property
  def _thresholds(self) -> np.ndarray | None:
    """Thresholds [k] of the shared findings; None without validation images."""
    if self.validation is None:
      return None
    places = self.classifier.places(self.validation.vocabulary)
    scores = self.classifier.head_fn(self._extract(self.validation, "validation"))
    findings = np.asarray(self.validation.labels["findings"])
    return probe.youden_thresholds(
      scores[:, list(places.values())], findings[:, list(places)]
    )

  def _extract(self, images: ImageSet, key: str = "") -> np.ndarray:
    cache = self.cache if key else None
    return extractor_lib.extract(
      self.classifier.extractor,
      images.images,
      cache=cache,
      key=key or "images",
      progress=self.progress,
    )


def open_classifiers(
  weights: Mapping[str, str] | None,
  extractors: Sequence[Extractor] = (),
  files: Sequence[str] = (),
) -> list[Classifier]:
  """Opens the classifiers that the user has given.

  Args:
    weights: extractor -> its file, as for `open_extractors`.
    extractors: those that are open already, whose parameters are shared.
    files: of classifiers, NAME.onnx each.

  Raises:
    errors.InputError: weights or files that do not fit, or two files of one name.
  """
  location = (weights or {}).get("densenet", "")
  opened = [densenet(location, extractors)] if location else []
  opened += [of_onnx(file) for file in files]
  titles = [one.title for one in opened]
  if len(set(titles)) < len(titles):
    raise errors.InputError(f"{', '.join(files)}", "files of different names")
  return opened


def of_onnx(location: str) -> Classifier:
  """A user's classifier NAME.onnx."""
  extractor, findings = onnx_network.open_classifier(location)
  return Classifier(
    title=f"{pathlib.Path(location).stem}, ONNX",
    extractor=extractor,
    findings=findings,
    head_fn=lambda scores: scores,
  )


def densenet(location: str, extractors: Sequence[Extractor] = ()) -> Classifier:
  """torchxrayvision's DenseNet-121, of the file of its weights."""
  opened = {one.name: one for one in extractors}.get("densenet")
  extractor = opened or networks.open_network("densenet", location)
  assert isinstance(extractor, Extractor)
  return Classifier(
    title="densenet, torchxrayvision's logits",
    extractor=extractor,
    findings=networks.densenet_findings(location),
    head_fn=functools.partial(networks.densenet_logits, extractor.params),
  )


def _plain(name: str) -> str:
  """A name without regard to case and underscores."""
  plain = labels_lib.plain(name)
  return labels_lib.plain(_ALIASES.get(plain, plain))
