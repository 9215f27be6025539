"""Classifiers trained on mixtures of image sets, kept as what they say of a test set.

phase: parts of image sets, updates -> `probe_fit.fit` -> parameters -> next phase ...
  -> scores [t k] of the test images -> NAME-FINGERPRINT.npz: not trained again
"""

from collections.abc import Sequence
import dataclasses
import hashlib
import os
import pathlib
import zipfile

import numpy as np

from cxr_diffusion_jax import errors, types
from cxr_diffusion_jax.encoders.standin import tree as standin_tree
from cxr_diffusion_jax.evaluation import image_set
from cxr_diffusion_jax.evaluation.judges import probe, probe_fit

# Raised when what the same phases mean changes: then older scores are made again.
FORMAT = 1

# Images between two words about progress.
_TELL_EVERY = 1000


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Source:
  """An image set as it is trained on or scored.

  Attributes:
    images: n of uint8 [h w 1], in memory where they fit.
    findings: [n k] uint8, 0 or 1.
    patients: [n] names; where none are known, each image has its own.
    digest: of all pixels.
  """

  images: Sequence[np.ndarray]
  findings: np.ndarray
  patients: np.ndarray
  digest: str


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Phase:
  """Updates from images of one or more sources, as if they were one set.

  Attributes:
    parts: sources, and the rows of each.
    settings: of the network and its training, with the seed.
  """

  parts: Sequence[tuple[Source, np.ndarray]]
  settings: probe_fit.ProbeSettings


class Trainer:
  """Makes scores of one test set; compiles each program once, however many the fits.

  Args:
    test: what all classifiers are tested on.
  """

  def __init__(self, test: Source):
    self._test = test
    # Settings without their seed -> programs.
    self._programs: dict[probe_fit.ProbeSettings, probe_fit.Programs] = {}
    self._score_fn = None
    # The last first phase of several: fingerprint, parameters. Fine-tuning on more and
    # more images begins with the same ones.
    self._begun: tuple[str, types.Params] = ("", None)

  def path(
    self, folder: pathlib.Path, name: str, phases: Sequence[Phase]
  ) -> pathlib.Path:
    """The file that holds or will hold the scores after these phases."""
    return folder / f"{name}-{fingerprint(phases, self._test)[:16]}.npz"

  def scores(
    self, path: pathlib.Path, phases: Sequence[Phase], progress: types.Progress
  ) -> np.ndarray:
    """Scores [t k] of the test images after these phases, trained only if need be.

    Args:
      path: as `path` gave it.
      phases: one after the other, each with the parameters of the one before.
      progress: told each update.

    Raises:
      errors.InputError: the file is damaged.
      FloatingPointError: a loss is not finite; nothing was saved.
    """
    mark = fingerprint(phases, self._test)
    if path.is_file():
      return _load(path, mark)
    params = None
    if len(phases) > 1:
      first = fingerprint(phases[:1], self._test)
      if self._begun[0] != first:
        self._begun = first, self._fit(phases[0], None, progress)
      phases, params = phases[1:], self._begun[1]
    for phase in phases:
      params = self._fit(phase, params, progress)
    made = self._scored(params, phases[-1].settings)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    with open(part, "wb") as file:
      np.savez(file, scores=made, fingerprint=np.array(mark))
      file.flush()
      os.fsync(file.fileno())
    os.replace(part, path)
    return made

  def _fit(
    self, phase: Phase, params: types.Params | None, progress: types.Progress
  ) -> types.Params:
    sources = [source for source, _ in phase.parts]
    starts = np.cumsum([0, *(len(source.images) for source in sources)])
    rows = np.concatenate(
      [start + part for start, (_, part) in zip(starts, phase.parts, strict=False)]
    )
    images = standin_tree.Chain([source.images for source in sources])
    findings = np.concatenate([source.findings for source in sources])[rows]
    fitted, _ = probe_fit.fit(
      image_set.Taken(images, rows),
      findings,
      phase.settings,
      progress,
      params=params,
      programs=self._of(phase.settings, findings.shape[1]),
    )
    return fitted

  def _of(
    self, settings: probe_fit.ProbeSettings, num_classes: int
  ) -> probe_fit.Programs:
    """Programs of the settings, with one initialisation for all."""
    key = dataclasses.replace(settings, seed=0)
    if key not in self._programs:
      made = probe_fit.make_programs(key, num_classes)
      for other in self._programs.values():
        made = dataclasses.replace(made, init_fn=other.init_fn)
      self._programs[key] = made
    return self._programs[key]

  def _scored(
    self, params: types.Params, settings: probe_fit.ProbeSettings
  ) -> np.ndarray:
    images, batch = self._test.images, settings.batch_size
    if self._score_fn is None:
      self._score_fn = probe_fit.make_score_fn(settings, self._test.findings.shape[1])
    made = []
    for first in range(0, len(images), batch):
      # The last image fills up: one shape, compiled once.
      rows = np.minimum(np.arange(first, first + batch), len(images) - 1)
      made.append(self._score_fn(params, np.stack([images[row] for row in rows])))
    return np.concatenate([np.asarray(x) for x in made])[: len(images)]


def read(images: image_set.ImageSet, progress: types.Progress) -> Source:
  """Reads a set once: its digest, and its images into memory, where they fit.

  Raises:
    errors.InputError: no findings, findings that are not 0 or 1, or images that are
      not uint8 [h w 1] of one size.
  """
  findings = np.asarray(images.labels.get("findings", ()))
  if findings.shape[:1] != (len(images),) or not np.isin(findings, (0, 1)).all():
    raise errors.InputError(
      f"{images.name}: {len(images)} images, findings {list(findings.shape)}",
      "a row of 0 and 1 for each image",
    )
  shape = np.shape(images.images[0])
  fits = len(images) * int(np.prod(shape)) <= probe.MAX_BYTES_IN_MEMORY
  kept = np.empty((len(images), *shape), np.uint8) if fits else None
  digest = hashlib.sha256(str(shape).encode())
  for row in range(len(images)):
    image = np.asarray(images.images[row])
    if image.dtype != np.uint8 or image.shape != shape or image.shape[2:] != (1,):
      raise errors.InputError(
        f"{images.name}: image {images.ids[row]} is {image.dtype} {image.shape}",
        f"uint8 [h w 1], all of one size, as the first of {shape}",
        "bring all images to one size first",
      )
    digest.update(np.ascontiguousarray(image).tobytes())
    if kept is not None:
      kept[row] = image
    if (row + 1) % _TELL_EVERY == 0:
      progress(f"utility, reading {images.name}", row + 1, len(images))
  return Source(
    images=images.images if kept is None else kept,
    findings=findings.astype(np.uint8),
    patients=np.asarray(images.labels.get("patient", images.ids)),
    digest=digest.hexdigest(),
  )


def fingerprint(phases: Sequence[Phase], test: Source) -> str:
  """Of all that scores depend on: settings, pixels, findings, order, test pixels."""
  digest = hashlib.sha256(f"{FORMAT} {test.digest}".encode())
  for phase in phases:
    digest.update(repr(phase.settings).encode())
    for source, rows in phase.parts:
      digest.update(f" {source.digest} {len(rows)} ".encode())
      digest.update(np.asarray(rows, np.int64).tobytes())
      digest.update(np.ascontiguousarray(source.findings[rows]).tobytes())
  return digest.hexdigest()


def _load(path: pathlib.Path, mark: str) -> np.ndarray:
  """Reads scores back.

  Raises:
    errors.InputError: not the file that was saved there.
  """
  try:
    # Of a path it would leave the file open where it is damaged.
    with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
      scores, found = arrays["scores"], str(arrays["fingerprint"])
  except (zipfile.BadZipFile, EOFError, KeyError, ValueError) as error:
    raise errors.InputError(f"{path} is damaged: {error}", fix="remove it") from error
  if found != mark:
    raise errors.InputError(f"{path} holds scores of other images", fix="remove it")
  return scores
