"""Downloads the parts of a dataset tree; interrupted downloads are resumed.

  nih                Kaggle's copy of ChestX-ray14, through kagglehub
  elixr              ELIXR embeddings from the Hugging Face hub, through huggingface_hub
  google-labels      Google's expert labels, plain HTTPS
  google-nih-subset  2,737 images with ELIXR-B embeddings and labels, plain HTTPS, no
                     account: a whole small tree

Tokens come from the libraries' own places only (their login commands, files and
environment variables).
"""

from collections.abc import Callable
import importlib
import os
import pathlib
import shutil
import time
from types import ModuleType

from cxr_diffusion_jax import errors, naming
from cxr_diffusion_jax.data.download import fetch, google_subset
from cxr_diffusion_jax.progress import Progress, no_progress

_STORAGE = "https://storage.googleapis.com"
_LABELS_URL = f"{_STORAGE}/gcs-public-data--healthcare-nih-chest-xray-labels"
_SUBSET_URL = f"{_STORAGE}/healthai-us/encoded-data/nih/radiology/cxr"
_LABELS_PAGE = (
  "https://cloud.google.com/healthcare-api/docs/resources/public-datasets/nih-chest"
)
_LABEL_FILES = (
  "four_findings_expert_labels/individual_readers.csv",
  "four_findings_expert_labels/validation_labels.csv",
  "four_findings_expert_labels/test_labels.csv",
  "all_findings_expert_labels/test_individual_readers.csv",
  "all_findings_expert_labels/test_labels.csv",
)
# The subset's files, and their folders in the tree.
_SUBSET_FILES = (
  ("cxr14_subset_labels.csv", "downloads/google-nih-subset"),
  ("precomputed_text_embeddings.npz", "elixrb"),
  ("precomputed_image_embeddings.npz", "elixrb"),
  ("thumbnails_id_to_webp.npz", "downloads/google-nih-subset"),
)
# Sources whose data each user must ask for, and where.
_CREDENTIALED = {
  "chexpert": "https://stanfordmlgroup.github.io/competitions/chexpert/",
  "mimic_cxr": "https://physionet.org/content/mimic-cxr-jpg/",
  "padchest": "https://bimcv.cipf.es/bimcv-projects/padchest/",
  "vindr": "https://physionet.org/content/vindr-cxr/",
}
_NIH_DATASET = "nih-chest-xrays/data"
_ELIXR_REPOSITORY = "Yasintuncer/nih-cxr14-elixr"
_ELIXR_PATTERNS = ("datasets.json", "elixrc/*", "elixrb/*")

# Downloads a URL to a path.
Get = Callable[[str, pathlib.Path], None]


def download(
  what: str,
  root: str | os.PathLike,
  *,
  progress: Progress = no_progress,
  base_url: str | None = None,
  sleep: Callable[[float], None] = time.sleep,
) -> None:
  """Downloads one part of a dataset tree; what is there already is not fetched again.

  Args:
    what: nih, elixr, google-labels or google-nih-subset.
    base_url: folder to take the plain files from, instead of Google's.

  Raises:
    InputError: `what` is unknown, a library is missing, the server refuses, or what
      came is damaged.
  """
  root = pathlib.Path(root)

  def get(url: str, path: pathlib.Path) -> None:
    fetch.fetch(url, path, progress=progress, sleep=sleep)

  sources = {
    "nih": lambda: _nih(root, progress),
    "elixr": lambda: _elixr(root, progress),
    "google-labels": lambda: _labels(root, base_url or _LABELS_URL, get),
    "google-nih-subset": lambda: _subset(root, base_url or _SUBSET_URL, get, progress),
  }
  if what in _CREDENTIALED:
    raise errors.InputError(
      f"download {what}: its owners give it to registered users alone",
      "a copy of yours",
      f"agree to its terms at {_CREDENTIALED[what]}, download it there, then set"
      f" config.data.source={what} and config.data.root=FOLDER",
    )
  naming.check("download", what, sources)
  try:
    root.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise errors.InputError(
      f"{root} cannot be made: {error.strerror}", "a folder that can be written"
    ) from error
  sources[what]()


def _labels(root: pathlib.Path, base_url: str, get: Get) -> None:
  """google-labels/, folders as Google has them."""
  for name in _LABEL_FILES:
    try:
      get(f"{base_url.rstrip('/')}/{name}", root / "google-labels" / name)
    except errors.InputError as error:
      # The bucket has been seen to want its form filled in first.
      raise errors.InputError(
        f"{error}; or take the files from {_LABELS_PAGE} with a browser, to"
        f" {root / 'google-labels'}"
      ) from error


def _subset(root: pathlib.Path, base_url: str, get: Get, progress: Progress) -> None:
  """Form F's files, and the tree that they make."""
  for name, folder in _SUBSET_FILES:
    get(f"{base_url.rstrip('/')}/{name}", root / folder / name)
  raw = root / "downloads/google-nih-subset"
  google_subset.unpack(
    raw / "thumbnails_id_to_webp.npz",
    raw / "cxr14_subset_labels.csv",
    root,
    progress=progress,
  )


def _library(name: str, what: str) -> ModuleType:
  try:
    return importlib.import_module(name)
  except ImportError as error:
    raise errors.InputError(
      f"downloading {what} needs {name}, which is not installed",
      fix=f"pip install {name}",
    ) from error


def _elixr(root: pathlib.Path, progress: Progress) -> None:
  """A snapshot of a dataset on the hub; the library resumes and checks sizes itself."""
  huggingface_hub = _library("huggingface_hub", "elixr")
  progress(f"dataset {_ELIXR_REPOSITORY}", 0, 0)
  try:
    huggingface_hub.snapshot_download(
      _ELIXR_REPOSITORY,
      repo_type="dataset",
      local_dir=root,
      allow_patterns=list(_ELIXR_PATTERNS),
    )
  # The hub's errors, HTTP ones included, derive from these two.
  except (OSError, ValueError) as error:
    raise errors.InputError(
      f"{_ELIXR_REPOSITORY} could not be downloaded: {error}",
      fix="check the network and the name; where it is gated, accept its terms on the"
      " hub and run `hf auth login`; then run the same command again",
    ) from error


def _nih(root: pathlib.Path, progress: Progress) -> None:
  """Kaggle's copy, which stays in kagglehub's cache: 45 GB are not copied again."""
  kagglehub = _library("kagglehub", "nih")
  exceptions = _library("kagglehub.exceptions", "nih")
  progress(f"dataset {_NIH_DATASET}", 0, 0)
  try:
    # To its cache, as it resumes an interrupted download nowhere else.
    cache = pathlib.Path(kagglehub.dataset_download(_NIH_DATASET))
  except (
    OSError,
    ValueError,
    exceptions.BackendError,
    exceptions.CredentialError,
    exceptions.DataCorruptionError,
    exceptions.NotFoundError,
    exceptions.UnauthenticatedError,
  ) as error:
    raise errors.InputError(
      f"{_NIH_DATASET} could not be downloaded: {error}",
      fix="check the network, log in as kagglehub's manual says"
      " (kagglehub.login() or ~/.kaggle/kaggle.json), then run the same command again",
    ) from error
  _link_nih(cache, root)


def _link_nih(cache: pathlib.Path, root: pathlib.Path) -> None:
  """original/images_* become links into the cache; CSVs and lists are copied."""
  folders = sorted(path for path in cache.glob("images*") if path.is_dir())
  if not folders:
    raise errors.InputError(
      f"{cache} has no folders images_001 to images_012", "Kaggle's NIH dataset"
    )
  original = root / "original"
  original.mkdir(exist_ok=True)
  for folder in folders:
    link = original / folder.name
    if link.is_symlink():
      link.unlink()
    if not link.exists():
      link.symlink_to(folder.resolve(), target_is_directory=True)
  for path in sorted([*cache.glob("*.csv"), *cache.glob("*.txt")]):
    if not (root / path.name).exists():
      part = root / f"{path.name}.part"
      shutil.copyfile(path, part)
      os.replace(part, root / path.name)
