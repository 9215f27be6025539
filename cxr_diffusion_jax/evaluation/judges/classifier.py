"""Classifiers of findings that others have trained, as judges beside the probe.

images --network--> scores [n m] --findings that the dataset has too--> [n k]
validation patients: scores, labels --Youden--> thresholds [k]
  -> AUROC, average precision, found, false alarms of `adherence`

Means are over the findings that both vocabularies share. Without validation images
there is no threshold, and so neither found nor false alarms.
"""

from collections.abc import Mapping
import dataclasses
import functools
import pathlib

import numpy as np

from cxr_diffusion_jax import errors, types
from cxr_diffusion_jax.data.image_sets.image_set import ImageSet
from cxr_diffusion_jax.encoders.extractors import extractor as extractor_lib
from cxr_diffusion_jax.encoders.extractors.classifiers import Classifier
from cxr_diffusion_jax.encoders.probes import probe
from cxr_diffusion_jax.evaluation.judges import adherence
from cxr_diffusion_jax.evaluation.measurement import Fields, Measurement

# Figures that need a threshold.
_THRESHOLDED = ("found", "false_alarms")


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
