"""A user's weights of a known network as a classifier, and what does not fit."""

import json

import jax
import numpy as np
import pytest
import safetensors.numpy

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.encoders.extractors import classifiers
from cxr_diffusion_jax.encoders.extractors import extractor as extractor_lib
from cxr_diffusion_jax.interop import names
from cxr_diffusion_jax.models import frozen_networks

USE = {
  "architecture": "densenet121",
  "findings": ["Effusion", ""],
  "size": 16,
  "mean": [0.1, 0.2, 0.3],
  "std": 0.5,
}


def _small(num):
  return frozen_networks.DenseNet(
    layers=(2,), growth=2, stem_channels=4, num_outputs=num
  )


@pytest.fixture
def weights(tmp_path, monkeypatch):
  """A file of PyTorch's names, its JSON file, and the tree of parameters."""
  monkeypatch.setattr(classifiers, "ARCHITECTURES", {"densenet121": _small})
  image = np.zeros((1, 16, 16, 3), np.float32)
  params = jax.jit(_small(2).init)(jax.random.key(0), image)["params"]
  arrays = {key: np.ascontiguousarray(x) for key, x in names.from_tree(params).items()}
  arrays["features.norm0.num_batches_tracked"] = np.array(7)
  path = tmp_path / "mine.safetensors"
  safetensors.numpy.save_file(arrays, path)
  path.with_suffix(".json").write_text(json.dumps(USE))
  return path, params


def test_weights_of_a_known_network_score_findings(weights):
  path, params = weights
  (opened,) = classifiers.open_classifiers({}, files=[str(path)])
  assert (opened.title, opened.findings) == ("mine, densenet121", ("Effusion", ""))
  assert opened.places(("Mass", "pleural effusion")) == {1: 0}
  images = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 1)).astype(np.uint8)
  scores = opened.head_fn(extractor_lib.extract(opened.extractor, images))
  x = (images / 255 - np.array(USE["mean"])) / USE["std"]
  _, logits = _small(2).apply({"params": params}, x.astype(np.float32))
  np.testing.assert_allclose(scores, logits, rtol=1e-4, atol=1e-5)
  before = opened.extractor.fingerprint
  path.with_suffix(".json").write_text(json.dumps({**USE, "std": 1}))
  assert classifiers.of_weights(str(path)).extractor.fingerprint != before


@pytest.mark.parametrize(
  ("changes", "reported"),
  [
    ({"architecture": "vgg"}, r"mine\.json: .*'vgg'; expected one of densenet121"),
    ({"findings": ["a", "b", "c"]}, r"wrong shape: classifier\.bias \[2\] for \[3\]"),
    ({"mean": [0, 0]}, "3 channels, 2 means, 1 std"),
    ({"findings": []}, r'expected \{"architecture": "densenet121", "findings"'),
    ({"size": "16"}, r'expected \{"architecture"'),
  ],
)
def test_weights_refuse_descriptions_that_do_not_fit(changes, reported, weights):
  path, _ = weights
  path.with_suffix(".json").write_text(json.dumps({**USE, **changes}))
  with pytest.raises(errors.InputError, match=reported):
    classifiers.of_weights(str(path))


def test_weights_refuse_files_that_do_not_fit(weights):
  path, _ = weights
  safetensors.numpy.save_file({"features.conv0.weight": np.zeros((4, 3, 7, 7))}, path)
  with pytest.raises(errors.InputError, match=r"missing: classifier\.bias"):
    classifiers.of_weights(str(path))
  with pytest.raises(errors.InputError, match=r"a file NAME\.safetensors that exists"):
    classifiers.of_weights(str(path.with_name("none.safetensors")))
