"""Anatomy by a segmenter of heart and lungs: planted masks, and what does not fit."""

import base64
import json
import sys
import types

import numpy as np
import pytest

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.encoders.extractors import segmenter

USE = {
  "size": 8,
  "mean": 0,
  "std": 1,
  "threshold": 0.0,
  "channels": {"heart": 0, "left_lung": 1, "right_lung": 2},
}

# Grey levels, of 255, of heart, left lung and right lung.
LEVELS = (255, 153, 76)

# [b 1 8 8] -> .1 - |x - (1, .6, .3)|: [b 3 8 8].
MODEL = base64.b64decode(
  "CAg6mAEKDgoBeAoBbBIBZCIDU3ViCgsKAWQSAWEiA0FicwoOCgFnCgFhEgF5IgNTdWISAXMqGwgBCAMI"
  "AQgBEAFCAWxKDAAAgD+amRk/mpmZPioNCAEQAUIBZ0oEzczMPVocCgF4EhcKFQgBEhEKAxIBYgoCCAEK"
  "AggICgIICGIcCgF5EhcKFQgBEhEKAxIBYgoCCAMKAggICgIICEIECgAQDQ=="
)


def _images():
  """The first has all organs, and a stray pixel of heart; the second has no heart."""
  images = np.zeros((2, 8, 8, 1), np.uint8)
  images[:, 1:5, :2], images[:, 1:4, 6:] = LEVELS[2], LEVELS[1]
  images[0, 4:7, 3:6] = LEVELS[0]
  images[0, 0, 4] = LEVELS[0]
  return images


EXPECTED = {
  "cardiothoracic_ratio": [3 / 8, np.nan],
  "lung_area_right": [8 / 64, 8 / 64],
  "lung_area_left": [6 / 64, 6 / 64],
}


@pytest.fixture
def model(tmp_path):
  """The files of a model."""
  path = tmp_path / "organs.onnx"
  path.write_bytes(MODEL)
  path.with_suffix(".json").write_text(json.dumps(USE))
  return path


@pytest.fixture
def runtime(monkeypatch):
  """Replaces onnxruntime by what the model does."""

  class Session:
    def __init__(self, path, providers):
      del path, providers

    def get_inputs(self):
      return [types.SimpleNamespace(name="x", shape=["b", 1, 8, 8])]

    def run(self, outputs, inputs):
      levels = np.array(LEVELS, np.float32).reshape(1, 3, 1, 1) / 255
      return [0.1 - np.abs(inputs["x"] - levels)]

  runtime = types.SimpleNamespace(
    InferenceSession=Session, get_available_providers=lambda: ["CPUExecutionProvider"]
  )
  monkeypatch.setitem(sys.modules, "onnxruntime", runtime)


def _check(model):
  opened = segmenter.open_segmenter(str(model))
  assert (opened.name, opened.standin) == ("onnx-organs", False)
  for name, values in segmenter.measure(opened, _images()).items():
    np.testing.assert_allclose(values, EXPECTED[name], rtol=1e-6)


def test_segmenter_measures_planted_organs(model, runtime):
  _check(model)


def test_segmenter_runs_in_onnxruntime(model):
  pytest.importorskip("onnxruntime")
  _check(model)


@pytest.mark.parametrize(
  ("changes", "reported"),
  [
    ({"channels": {"heart": 0}}, r'expected \{"size": 512'),
    ({"channels": {**USE["channels"], "heart": -1}}, r'expected \{"size": 512'),
    ({"channels": {**USE["channels"], "heart": 3}}, r"channels \[3, 1, 2\]"),
    ({"threshold": "half"}, r'expected \{"size": 512'),
    ({"findings": []}, r'expected \{"size": 512'),
  ],
)
def test_segmenter_refuses_descriptions_that_do_not_fit(
  changes, reported, model, runtime
):
  model.with_suffix(".json").write_text(json.dumps({**USE, **changes}))
  with pytest.raises(errors.InputError, match=reported):
    segmenter.open_segmenter(str(model))
