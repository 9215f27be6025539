"""A linear classifier of a column: streamed, resumed, and refused for too few rows."""

import numpy as np
import pytest
from sklearn import linear_model, preprocessing

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.data.columns import writer as column_writer
from cxr_diffusion_jax.encoders.probes import embedding_fit

NUM_ROWS = 160


@pytest.fixture(scope="module")
def targets():
  """[160 5] findings, the last of which no image has."""
  findings = np.random.default_rng(0).random((NUM_ROWS, 5)) < 0.25
  return (findings * [1, 1, 1, 1, 0]).astype(np.uint8)


@pytest.fixture(scope="module")
def column(targets, tmp_path_factory):
  """[4 20] an image: noise, and each target on an axis of one place."""
  values = 0.1 * np.random.default_rng(1).standard_normal((NUM_ROWS, 4, 20))
  for axis in range(4):
    values[:, axis, axis] += 2 * targets[:, axis]
  ids = np.array([f"train_{i:03d}" for i in range(NUM_ROWS)])
  return column_writer.write_column(
    tmp_path_factory.mktemp("records"),
    ids={"train": ids},
    name="img_emb",
    shape=(4, 20),
    encoder="planted",
    standin=True,
    fingerprint="",
    batches=[(ids, values)],
    dtype="float32",
  )


def test_train_gives_the_scores_of_a_fit_in_memory(column, targets):
  source, rows = column.source("train"), np.arange(NUM_ROWS)
  result = embedding_fit.train(column, rows, targets[:, :1])
  features = np.stack([source[row] for row in rows]).mean(axis=1)
  scaler = preprocessing.StandardScaler().fit(features)
  peer = linear_model.LogisticRegression(C=0.01)
  peer.fit(scaler.transform(features), targets[:, 0])
  np.testing.assert_allclose(
    result.scores(source, rows)[:, 0],
    peer.decision_function(scaler.transform(features)),
    atol=1e-3,
  )


def test_train_leaves_out_rows_whose_target_is_unknown(column, targets):
  rows = np.arange(NUM_ROWS)
  unknown = targets[:, :3].astype(np.float32)
  # Every second row of the first; all with or without it of the others.
  unknown[::2, 0] = np.nan
  unknown[:, 1] = np.where(unknown[:, 1] == 1, 1, np.nan)
  unknown[:, 2] = np.nan
  result = embedding_fit.train(column, rows, unknown)
  assert result.known.tolist() == [True, False, False]
  scores = result.scores(column.source("train"), rows)
  present = targets[:, 0] == 1
  assert scores[present, 0].min() > scores[~present, 0].max()
  assert not scores[:, 1:].any()


def test_train_resumes_after_each_target(column, targets, tmp_path, monkeypatch):
  fits = []

  def train(stop_at=0):
    def progress(label, done, total):
      fits.append(done)
      if done == stop_at:
        raise KeyboardInterrupt

    return embedding_fit.train(
      column, np.arange(NUM_ROWS), targets, cache=tmp_path, progress=progress
    )

  with pytest.raises(KeyboardInterrupt):
    train(stop_at=3)
  assert len(fits) == 3
  result = train()
  # One of the 5 is never there.
  assert len(fits) == 4
  assert result.known.sum() == 4
  again = train()
  assert len(fits) == 4
  np.testing.assert_array_equal(again.weights, result.weights)
  monkeypatch.setattr(embedding_fit, "STRENGTH", 1.0)
  train()
  assert len(fits) == 8


def test_train_rejects_too_few_rows(column):
  with pytest.raises(errors.InputError, match=r"19 training images.*20 or more"):
    embedding_fit.train(column, np.arange(19), np.ones((19, 1)))
