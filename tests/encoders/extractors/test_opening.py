"""Which extractors are available, what the others lack, how stand-ins are marked."""

import json
import types
from typing import NoReturn

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.encoders.extractors import opening as features
from cxr_diffusion_jax.encoders.probes import attribution, probe_fit, probe_settings
from cxr_diffusion_jax.encoders.probes import probe as probe_lib


@pytest.fixture
def probe():
  """An untrained probe of images of 8 pixels."""
  settings = probe_settings.ProbeSettings(widths=(2, 4), norm_groups=1, batch_size=2)
  classifier = probe_fit.make_classifier(settings, 3)
  shapes = jax.eval_shape(classifier.init, jax.random.key(0), jnp.zeros((1, 8, 8, 1)))[
    "params"
  ]
  rng = np.random.default_rng(0)
  return probe_lib.Probe(
    image_size=8,
    thresholds=np.zeros(3),
    fingerprint="",
    batch_size=2,
    params=jax.tree.map(
      lambda leaf: rng.standard_normal(leaf.shape, np.float32), shapes
    ),
    score_fn=probe_fit.make_score_fn(settings, 3),
    features_fn=probe_fit.make_features_fn(settings, 3),
    attribution_fn=attribution.make_attribution_fn(settings, 3),
  )


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
  """No model of the hub is available."""
  import huggingface_hub

  monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_, **__: None)


def test_auto_opens_available_extractors(probe):
  opened, skipped = features.open_extractors("auto", probe_fn=lambda: probe)
  assert [extractor.name for extractor in opened] == ["probe"]
  assert set(skipped) == set(features.NAMES) - {"probe"}
  assert "not in the hub's cache" in skipped["rad_dino"]
  assert all(reason for reason in skipped.values())
  opened, skipped = features.open_extractors(["auto"])
  assert not opened
  assert set(skipped) == set(features.NAMES)


def test_probe_features_give_its_logits(probe):
  (extractor,), skipped = features.open_extractors(["probe"], probe_fn=lambda: probe)
  assert (extractor.standin, extractor.width, skipped) == (True, 8, {})
  images = np.random.default_rng(1).integers(0, 256, (3, 8, 8, 1)).astype(np.uint8)
  result = features.extract(extractor, images)
  head = probe.params["head"]
  logits = result @ head["kernel"] + head["bias"]
  # Scores end one rounding short of 0 and 1.
  np.testing.assert_allclose(1 / (1 + np.exp(-logits)), probe.scores(images), atol=1e-4)
  # Images of another size are brought to the probe's.
  larger = jax.ShapeDtypeStruct((3, 16, 12, 1), np.uint8)
  result = jax.eval_shape(extractor.apply_fn, extractor.params, larger)
  assert result.shape == (3, 8)


def test_open_extractors_rejects_unavailable_names(probe, tmp_path):
  for names, weights, reported in (
    (["probe"], {}, "no probe was trained"),
    (["clip"], {}, "there is no stand-in; name one to download it"),
    (["elixr_c"], {}, "google/cxr-foundation is not in the hub's cache"),
    (["resnet"], {}, "features resnet; expected auto, or some of probe, rad_dino"),
    ([], {}, r"features \(none\)"),
    ("auto", {"resnet": "x"}, "features resnet"),
    ("auto", {"rad_dino": str(tmp_path)}, "json is absent"),
    ("auto", {"clip": "/nowhere/at/all"}, "no CLIP in '/nowhere/at/all'"),
    ("auto", {"elixr_c": str(tmp_path)}, "saved_model.pb"),
  ):
    with pytest.raises(errors.InputError, match=reported):
      features.open_extractors(names, weights=weights)


@pytest.fixture
def loaded(monkeypatch):
  """What is loaded in place of any encoder: means of the image, times a weight."""

  def load(location):
    return types.SimpleNamespace(
      layer=loaded.layer,
      params={"w": jnp.arange(3.0)},
      apply_fn=lambda params, x: ((), x.mean(axis=(1, 2)) * params["w"]),
    )

  loaded = types.SimpleNamespace(layer="class token after the norm")
  monkeypatch.setattr(features.image_features, "load", load)
  return loaded


def test_open_extractors_states_model_and_layer(loaded, tmp_path):
  (extractor,), _ = features.open_extractors(["rad_dino"])
  assert extractor.layer == "class token after the norm"
  assert (extractor.standin, extractor.width) == (False, 3)
  # Bytes come to an encoder as numbers in [-1, 1].
  black = features.extract(extractor, np.zeros((2, 4, 4, 1), np.uint8))
  np.testing.assert_allclose(black, [[0, -1, -2]] * 2, atol=1e-6)
  (extractor,), _ = features.open_extractors(
    ["rad_dino"], weights={"rad_dino": "somebody/dino"}
  )
  assert extractor.layer == "class token after the norm of dino"
  with pytest.raises(errors.InputError, match="expected a model with 'image embed"):
    features.open_extractors(["clip"], weights={"clip": "somebody/dino"})
  loaded.layer = "image embedding"
  (tmp_path / "config.json").write_text(json.dumps({"standin": True}))
  settings = types.SimpleNamespace(standin_clip=tmp_path)
  (extractor,), _ = features.open_extractors(["clip"], settings=settings)
  assert extractor.standin
  assert extractor.layer == "image embedding of a stand-in"


def test_extract_of_elixr_c_is_the_mean_of_its_map(monkeypatch, tmp_path):
  def encode_images(columns, images):
    assert columns == ["elixrc"]
    means = np.array([image.mean() for image in images], np.float32)
    ramp = np.arange(64.0).reshape(8, 8, 1)
    return {"elixrc": means[:, None, None, None] + ramp * np.ones(1376)}

  encoder = types.SimpleNamespace(
    description="stand-in", standin=True, encode_images=encode_images
  )
  (tmp_path / "config.json").write_text("{}")
  monkeypatch.setattr(features.standin_elixr, "load", lambda folder: encoder)
  settings = types.SimpleNamespace(standin_clip=tmp_path)
  (extractor,), _ = features.open_extractors(["elixr_c"], settings=settings)
  assert extractor.standin
  images = np.full((3, 4, 4, 1), 7, np.uint8)
  result = features.extract(extractor, images)
  np.testing.assert_allclose(result, np.full((3, 1376), 7 + 31.5))


def test_open_extractors_makes_no_probe_before_others_are_refused(tmp_path):
  def train() -> NoReturn:
    pytest.fail("the probe was trained")

  for features_of in (["probe", "clip"], "auto"):
    with pytest.raises(errors.InputError, match="json is absent"):
      features.open_extractors(
        features_of, probe_fn=train, weights={"clip": str(tmp_path)}
      )
