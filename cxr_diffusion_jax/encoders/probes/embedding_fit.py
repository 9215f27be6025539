"""How a linear classifier of embeddings is trained: block by block, target by target.

  column [n ... d] --mean over tokens or places--> features [n d]
  (features - mean) / deviation --logistic regression, one a target--> weights, bias
    -> embedding_classifier-FINGERPRINT.npz after each target

The column is streamed: only features are in memory.
"""

from collections.abc import Iterator
import dataclasses
import hashlib
import pathlib
import warnings

from absl import logging
import numpy as np
from sklearn import exceptions, linear_model, preprocessing
import threadpoolctl

from cxr_diffusion_jax import artifacts, errors, types
from cxr_diffusion_jax.data.columns import column as columns_lib

# Raised when the same settings give other weights: saved ones are trained again.
FORMAT = 2

MIN_IMAGES = 20

# Rows that are read at a time: 90 MB of the largest embedding.
_BLOCK = 256

_SMALL_BYTES = 2**26

# C of scikit-learn, the inverse of the price of squared weights.
STRENGTH = 0.01


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Classifier:
  """A trained classifier of t targets."""

  mean: np.ndarray  # [d], of the training features
  scale: np.ndarray  # [d], their standard deviation
  weights: np.ndarray  # [t d], of standardised features
  bias: np.ndarray  # [t]
  known: np.ndarray  # [t] bool; others have one class alone in the training images
  num_images: int
  fingerprint: str

  def scores(self, values: types.Arrays, rows: np.ndarray) -> np.ndarray:
    """Log-odds [n t] float32 of these rows of a column; 0 where not `known`."""
    scores: list[np.ndarray] = [np.zeros((0, len(self.bias)), np.float32)]
    for block in _blocks(values, rows):
      scores.append((block - self.mean) / self.scale @ self.weights.T + self.bias)
    return np.concatenate(scores)


def train(
  column: columns_lib.Column,
  rows: np.ndarray,
  targets: np.ndarray,
  *,
  cache: pathlib.Path | None = None,
  progress: types.Progress = types.no_progress,
) -> Classifier:
  """Trains a classifier, or resumes the one in the cache.

  Args:
    rows: [n] of its training split that have a value.
    targets: [n t] 0 or 1; nan unknown, which is left out.
    cache: keeps the weights, after each target; None for none.

  Raises:
    errors.InputError: too few rows.
  """
  if len(rows) < MIN_IMAGES:
    raise errors.InputError(
      f"{len(rows)} training images with {column.description.name}",
      f"{MIN_IMAGES} or more to classify embeddings",
    )
  fingerprint = _fingerprint(column, rows, targets)
  path = cache and cache / f"embedding_classifier-{fingerprint}.npz"
  known = (targets == 0).any(axis=0) & (targets == 1).any(axis=0)
  state: dict[str, np.ndarray] = {}
  if path is not None and path.is_file():
    with np.load(path, allow_pickle=False) as file:
      state = dict(file)
  if not state or not state["done"].all():
    source = column.source("train")
    scaler = preprocessing.StandardScaler(copy=False)
    features = scaler.fit_transform(np.concatenate(list(_blocks(source, rows))))
    state = state or {
      "mean": np.asarray(scaler.mean_, np.float32),
      "scale": np.asarray(scaler.scale_, np.float32),
      "weights": np.zeros((len(known), features.shape[1]), np.float32),
      "bias": np.zeros(len(known), np.float32),
      "done": ~known,
    }
    for k in np.flatnonzero(~state["done"]):
      stated = np.isfinite(targets[:, k])
      part = features if stated.all() else features[stated]
      state["weights"][k], state["bias"][k] = _fit(part, targets[stated, k])
      state["done"][k] = True
      if path is not None:
        artifacts.write_npz(path, state)
      progress("classifier of embeddings", int(k) + 1, len(known))
  del state["done"]
  return Classifier(known=known, num_images=len(rows), fingerprint=fingerprint, **state)


def _fit(features: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, float]:
  """Weights [d] and bias of one target."""
  model = linear_model.LogisticRegression(C=STRENGTH, max_iter=300)
  # On busy cores, threads that wait for each other at every product of a small matrix
  # are ten times slower than one thread.
  limits = 1 if features.nbytes < _SMALL_BYTES else None
  with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always", exceptions.ConvergenceWarning)
    with threadpoolctl.threadpool_limits(limits):
      model.fit(features, target)
  if caught:
    first, *_ = str(caught[0].message).splitlines()
    logging.warning("the classifier of embeddings: %s", first)
  return model.coef_[0], float(np.ravel(model.intercept_)[0])


def _blocks(values: types.Arrays, rows: np.ndarray) -> Iterator[np.ndarray]:
  """Yields features [b d] float32 of rows, in order."""
  for first in range(0, len(rows), _BLOCK):
    block = np.stack([values[int(row)] for row in rows[first : first + _BLOCK]])
    block = block.reshape(len(block), -1, block.shape[-1]).astype(np.float32)
    yield block.mean(axis=1)


def _fingerprint(
  column: columns_lib.Column, rows: np.ndarray, targets: np.ndarray
) -> str:
  about = column.description
  facts = (FORMAT, STRENGTH, about.name, about.fingerprint, targets.shape)
  digest = hashlib.sha256(repr(facts).encode())
  digest.update(np.ascontiguousarray(rows, np.int64).tobytes())
  codes = np.nan_to_num(targets, nan=2)
  digest.update(np.ascontiguousarray(codes, np.uint8).tobytes())
  return digest.hexdigest()[:16]
