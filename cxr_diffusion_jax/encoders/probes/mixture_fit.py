"""Classifiers trained on mixtures of image sets, saved as their scores of a test set.

phase: parts of image sets -> `probe_fit.fit`, to a plateau of validation patients
  -> parameters -> next phase ...
  -> scores [t k] of the test images -> NAME-FINGERPRINT.npz, trained only once

The parameters of a first phase are kept too: several classifiers begin with them.
"""

from collections.abc import Sequence
import dataclasses
import hashlib
import pathlib
import zipfile

from absl import logging
import flax.traverse_util
import jax.numpy as jnp
import numpy as np

from cxr_diffusion_jax import artifacts, checked_files, errors, types
from cxr_diffusion_jax.data.image_sets import image_set
from cxr_diffusion_jax.encoders.probes import probe_fit, probe_settings
from cxr_diffusion_jax.encoders.unfinished import Unfinished
from cxr_diffusion_jax.parallel import batches

# Raised when the same phases give other scores: saved ones are computed again.
FORMAT = 2

# Images between two calls of progress.
_REPORT_EVERY = 1000


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Source:
  """An image set, ready for training or scoring."""

  images: types.Arrays  # n of uint8 [h w 1], in memory where they fit
  findings: np.ndarray  # [n k] uint8, 0 or 1; float32 with nan where some are unknown
  patients: np.ndarray  # [n] names; where unknown, each image has its own
  digest: str  # of all pixels


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Phase:
  """Training on images of one or more sources, as if they were one set."""

  parts: Sequence[tuple[Source, np.ndarray]]
  settings: probe_settings.ProbeSettings


class Trainer:
  """Trains classifiers and scores one test set; compiles each program once.

  `validation` are real images of patients in no other set, which end each phase.
  """

  def __init__(self, test: Source, validation: Source):
    self._test, self._validation = test, validation
    # Settings without their seed -> program.
    self._programs: dict[probe_settings.ProbeSettings, probe_fit.Program] = {}
    # Fingerprint and parameters of the latest first phase: fine-tuning on more and more
    # images begins with the same ones.
    self._first_phase: tuple[str, types.Params] = ("", None)

  def scores(
    self,
    folder: pathlib.Path,
    name: str,
    phases: Sequence[Phase],
    progress: types.Progress,
  ) -> np.ndarray:
    """Scores [t k] of the test images after these phases, trained or read.

    Raises:
      errors.InputError: the file is damaged.
    """
    mark = fingerprint(phases, self._test, self._validation)
    path = folder / f"{name}-{mark[:16]}.npz"
    if path.is_file():
      return _load(path, mark)
    params = None
    if len(phases) > 1:
      first = fingerprint(phases[:1], self._test, self._validation)
      if self._first_phase[0] != first:
        kept = folder / f"first_phase-{first[:16]}.npz"
        self._first_phase = first, self._fit_first(phases[0], kept, first, progress)
      params = self._first_phase[1]
    unfinished = Unfinished(path=_unfinished(path), mark=mark)
    for number, phase in list(enumerate(phases))[len(phases) > 1 :]:
      one = dataclasses.replace(unfinished, mark=f"{mark} {number}")
      params = self._fit(phase, params, one, progress)
    scores = self.score(params, phases[-1].settings)
    artifacts.write_npz(path, {"scores": scores, "fingerprint": np.array(mark)})
    unfinished.remove()
    return scores

  def _fit_first(
    self, phase: Phase, path: pathlib.Path, mark: str, progress: types.Progress
  ) -> types.Params:
    """Parameters after a first phase, trained or read."""
    if path.is_file():
      try:
        leaves = checked_files.read_npz(path)
        return flax.traverse_util.unflatten_dict(
          {name: jnp.asarray(leaf) for name, leaf in leaves.items()}, sep="/"
        )
      except errors.InputError as error:
        logging.warning("%s; it is trained again", error)
    unfinished = Unfinished(path=_unfinished(path), mark=mark)
    params = self._fit(phase, None, unfinished, progress)
    leaves = flax.traverse_util.flatten_dict(params, sep="/")
    artifacts.write_npz(path, {name: np.asarray(leaves[name]) for name in leaves})
    unfinished.remove()
    return params

  def _fit(
    self,
    phase: Phase,
    params: types.Params | None,
    unfinished: Unfinished,
    progress: types.Progress,
  ) -> types.Params:
    sources = [source for source, _ in phase.parts]
    starts = np.cumsum([0, *(len(source.images) for source in sources)])
    rows = np.concatenate(
      [start + part for start, (_, part) in zip(starts, phase.parts, strict=False)]
    )
    images = image_set.chain([source.images for source in sources])
    findings = np.concatenate([source.findings for source in sources])[rows]
    fitted = probe_fit.fit(
      image_set.subset(images, rows),
      findings,
      phase.settings,
      validation=(self._validation.images, self._validation.findings),
      params=params,
      program=self._program(phase.settings, findings.shape[1]),
      unfinished=unfinished,
      progress=progress,
    )
    return fitted.params

  def _program(
    self, settings: probe_settings.ProbeSettings, num_classes: int
  ) -> probe_fit.Program:
    """The program of the settings, with one initialisation for all."""
    key = dataclasses.replace(settings, seed=0)
    if key not in self._programs:
      program = probe_fit.compile_step(key, num_classes)
      for other in self._programs.values():
        same = {"init_fn": other.init_fn, "score_fn": other.score_fn}
        program = dataclasses.replace(program, **same)
      self._programs[key] = program
    return self._programs[key]

  def score(
    self, params: types.Params, settings: probe_settings.ProbeSettings
  ) -> np.ndarray:
    """Scores [t k] of the test images with these parameters."""
    images = self._test.images
    score_fn = self._program(settings, self._test.findings.shape[1]).score_fn
    return batches.in_batches(
      lambda rows: score_fn(params, np.stack([images[row] for row in rows])),
      len(images),
      settings.batch_size,
    )


def read(images: image_set.ImageSet, progress: types.Progress) -> Source:
  """Reads a set once: its digest, and its images into memory if they fit.

  Raises:
    errors.InputError: no findings, findings that are not 0, 1 or nan, or images that
      are not uint8 [h w 1] of one size.
  """
  findings = np.asarray(images.labels.get("findings", ()))
  known = np.isfinite(findings)
  valid = np.isin(findings, (0, 1)) | np.isnan(findings)
  if findings.shape[:1] != (len(images),) or not valid.all():
    raise errors.InputError(
      f"{images.name}: {len(images)} images, findings {list(findings.shape)}",
      "a row of 0, 1 and nan for unknown, for each image",
    )
  shape = np.shape(images.images[0])
  fits = len(images) * int(np.prod(shape)) <= probe_fit.MAX_BYTES_IN_MEMORY
  in_memory = np.empty((len(images), *shape), np.uint8) if fits else None
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
    if in_memory is not None:
      in_memory[row] = image
    if (row + 1) % _REPORT_EVERY == 0:
      progress(f"utility, reading {images.name}", row + 1, len(images))
  return Source(
    images=images.images if in_memory is None else in_memory,
    findings=findings.astype(np.uint8 if known.all() else np.float32),
    patients=images.patients,
    digest=digest.hexdigest(),
  )


def fingerprint(phases: Sequence[Phase], test: Source, validation: Source) -> str:
  """Identifies all inputs of scores: settings, pixels, findings, order, test pixels."""
  digest = hashlib.sha256(f"{FORMAT} {test.digest} {validation.digest}".encode())
  digest.update(np.ascontiguousarray(validation.findings).tobytes())
  for phase in phases:
    digest.update(repr(phase.settings).encode())
    for source, rows in phase.parts:
      digest.update(f" {source.digest} {len(rows)} ".encode())
      digest.update(np.asarray(rows, np.int64).tobytes())
      digest.update(np.ascontiguousarray(source.findings[rows]).tobytes())
  return digest.hexdigest()


def _unfinished(path: pathlib.Path) -> pathlib.Path:
  return path.with_name(f"{path.stem}.unfinished.npz")


def _load(path: pathlib.Path, mark: str) -> np.ndarray:
  """Reads scores back."""
  try:
    # Given a path, numpy would leave a damaged file open.
    with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
      scores, saved = arrays["scores"], str(arrays["fingerprint"])
  except (zipfile.BadZipFile, EOFError, KeyError, ValueError) as error:
    raise errors.InputError(f"{path} is damaged: {error}", fix="remove it") from error
  if saved != mark:
    raise errors.InputError(f"{path} holds scores of other images", fix="remove it")
  return scores
