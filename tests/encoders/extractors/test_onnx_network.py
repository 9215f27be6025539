"""A user's network in ONNX: what goes in and comes out, and what does not fit."""

import base64
import json
import sys
import types

import numpy as np
import pytest

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.encoders.extractors import classifiers, onnx_network
from cxr_diffusion_jax.encoders.extractors import extractor as extractor_lib

USE = {"findings": ["Effusion", ""], "size": 8, "mean": 0.5, "std": [0.25]}

# [b 1 8 8] -> mean over places -> times (2, -1): [b 2].
MODEL = base64.b64decode(
  "CAg6iwEKGQoBeBIBcCIRR2xvYmFsQXZlcmFnZVBvb2wKDwoBcBIBZiIHRmxhdHRlbgoRCgFmCgF3EgF5"
  "IgZNYXRNdWwSAWcqEwgBCAIQASIIAAAAQAAAgL9CAXdaHAoBeBIXChUIARIRCgMSAWIKAggBCgIICAoC"
  "CAhiFAoBeRIPCg0IARIJCgMSAWIKAggCQgQKABAN"
)


@pytest.fixture
def model(tmp_path):
  """The files of a model."""
  path = tmp_path / "mine.onnx"
  path.write_bytes(MODEL)
  path.with_suffix(".json").write_text(json.dumps(USE))
  return path


@pytest.fixture
def runtime(monkeypatch):
  """Replaces onnxruntime by a model that gives the means of each channel."""

  class Session:
    def __init__(self, path, providers):
      assert providers == ["CPUExecutionProvider"]

    def get_inputs(self):
      return [types.SimpleNamespace(name="x", shape=runtime.shape)]

    def run(self, outputs, inputs):
      (images,) = inputs.values()
      runtime.seen.append(images.shape)
      if images.shape[2:] != (8, 8) or images.dtype != np.float32:
        raise RuntimeError("Got invalid dimensions")
      return [images.mean(axis=(2, 3))[:, :2]]

  runtime = types.SimpleNamespace(
    InferenceSession=Session,
    get_available_providers=lambda: ["AzureExecutionProvider", "CPUExecutionProvider"],
    shape=["batch", 3, None, None],
    seen=[],
  )
  monkeypatch.setitem(sys.modules, "onnxruntime", runtime)
  return runtime


def _write(model, **changes):
  model.with_suffix(".json").write_text(json.dumps({**USE, **changes}))


def test_onnx_network_receives_normalised_images_of_its_size(model, runtime):
  _write(model, mean=[0, 0.5, 1], std=[1, 2, 1])
  runtime.shape[0] = 4
  opened = classifiers.of_onnx(str(model))
  extractor = opened.extractor
  assert (opened.findings, opened.title) == (("Effusion", ""), "mine, ONNX")
  assert (extractor.name, extractor.standin) == ("onnx-mine", False)
  white = np.full((6, 16, 16, 1), 255, np.uint8)
  scores = extractor_lib.extract(extractor, white)
  np.testing.assert_allclose(scores, [[1, 0.25]] * 6)
  # One trial, and two batches of the model's own size.
  assert runtime.seen == [(4, 3, 8, 8)] * 3
  same = classifiers.of_onnx(str(model)).extractor
  assert same.fingerprint == extractor.fingerprint
  _write(model, mean=0.1)
  other = classifiers.of_onnx(str(model)).extractor
  assert other.fingerprint != extractor.fingerprint


@pytest.mark.parametrize(
  ("changes", "reported"),
  [
    ({"size": 9}, "does not fit .*mine.json: Got invalid dimensions"),
    ({"findings": ["Mass"]}, r"output \(16, 2\); expected .* and one score a finding"),
    ({"mean": [0, 0]}, "2 means, 1 std"),
    ({"findings": "Mass"}, r"expected \{\"findings\": \[\"Effusion\", \"Mass\"\], "),
    ({"findings": ["", ""]}, "mine.json: "),
    ({"std": 0}, "mine.json: "),
    ({"mean": "none"}, "mine.json: "),
    ({"scale": 1}, "mine.json: "),
  ],
)
def test_onnx_network_refuses_descriptions_that_do_not_fit(
  changes, reported, model, runtime
):
  _write(model, **changes)
  with pytest.raises(errors.InputError, match=reported):
    classifiers.of_onnx(str(model))


def test_onnx_network_refuses_missing_files_and_package(model, monkeypatch):
  monkeypatch.setitem(sys.modules, "onnxruntime", None)
  with pytest.raises(errors.InputError, match="fix: pip install onnxruntime"):
    classifiers.of_onnx(str(model))
  with pytest.raises(errors.InputError, match=r"expected a file NAME\.onnx"):
    classifiers.of_onnx(str(model.with_name("none.onnx")))
  model.with_suffix(".json").unlink()
  with pytest.raises(errors.InputError, match=r"no such file: .*mine\.json"):
    classifiers.of_onnx(str(model))


def test_embedding_has_unit_length(model, runtime):
  model.with_suffix(".json").write_text('{"size": 8, "mean": 0, "std": 1}')
  extractor = onnx_network.open_embedding(str(model))
  assert (extractor.width, extractor.standin) == (2, False)
  images = np.full((3, 8, 8, 1), 51, np.uint8)
  images[0] = 0
  vectors = extractor_lib.extract(extractor, images)
  np.testing.assert_allclose(vectors, [[0, 0], *[[0.5**0.5] * 2] * 2], rtol=1e-6)
  _write(model)
  with pytest.raises(errors.InputError, match=r'expected \{"size": 224'):
    onnx_network.open_embedding(str(model))


def test_onnx_network_runs_a_model(model):
  pytest.importorskip("onnxruntime")
  extractor = classifiers.of_onnx(str(model)).extractor
  images = np.zeros((3, 16, 16, 1), np.uint8)
  images[1] = 255
  scores = extractor_lib.extract(extractor, images)
  np.testing.assert_allclose(scores, [[-4, 2], [4, -2], [-4, 2]], atol=1e-5)
  model.write_bytes(MODEL[:40])
  with pytest.raises(errors.InputError, match=r"mine\.onnx does not fit"):
    classifiers.of_onnx(str(model))
