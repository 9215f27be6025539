"""A judge that sees a square: its maps lie on it, and its figures say so."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cxr_diffusion_jax.data.image_sets import image_set
from cxr_diffusion_jax.data.sources.nih import metadata
from cxr_diffusion_jax.encoders.probes import (
  attribution,
  probe,
  probe_fit,
  probe_settings,
)
from cxr_diffusion_jax.evaluation import measurement
from cxr_diffusion_jax.evaluation.judges import localisation

SETTINGS = probe_settings.ProbeSettings(
  widths=(2, 4), norm_groups=1, batch_size=8, stem_stride=1
)
MASS = metadata.FINDINGS.index("Mass")
EFFUSION = metadata.FINDINGS.index("Effusion")


def _bright(params, images, columns):
  """Maps of a judge that finds everything where an image is bright."""
  del params, columns
  return jnp.maximum(jnp.asarray(images, jnp.float32)[..., 0] - 128, 0)


@pytest.fixture
def judge():
  return probe.Probe(
    image_size=16,
    thresholds=np.zeros(14),
    fingerprint="",
    batch_size=8,
    params={},
    score_fn=None,
    features_fn=None,
    attribution_fn=_bright,
  )


def _squares(count):
  """Real images with a bright square each, and the boxes of it."""
  rng = np.random.default_rng(0)
  images = np.full((count, 16, 16, 1), 100, np.uint8)
  boxes = np.full((count, 14, 4), np.nan, np.float32)
  findings = np.zeros((count, 14), np.uint8)
  for i in range(count):
    x, y = rng.integers(0, 4) + 8 * (i % 2), rng.integers(0, 12)
    images[i, y : y + 4, x : x + 4] = 250
    column = MASS if i % 4 else EFFUSION
    boxes[i, column] = np.array([x, y, 4, 4]) / 16
    findings[i, column] = 1
  reported = {"findings": findings, "patient": np.arange(count) // 2}
  ids = np.array([f"{i}" for i in range(count)])
  return image_set.ImageSet(
    name="real", images=images, ids=ids, labels=reported, vocabulary=metadata.FINDINGS
  ), boxes


def _table(measured):
  return {(m.metric, m.group, m.of): m for m in measured}


def test_measure_of_copies_is_complete_and_of_shifted_ones_chance(judge):
  real, boxes = _squares(36)
  copies = dataclasses.replace(real, name="copies")
  table = _table(localisation.measure(copies, real, boxes, judge))
  for of in ("generated", "real"):
    for metric in ("pointing_game", "energy", "iou", "side"):
      assert table[metric, "all", of].value == pytest.approx(1)
      assert table[metric, "all", of].num == 36
    other = table["pointing_game_boxes_of_others", "all", of]
    assert other.value < 0.4
    assert not other.better
  shifted = dataclasses.replace(real, images=np.roll(real.images, 4, axis=0))
  table = _table(localisation.measure(shifted, real, boxes, judge))
  own = table["energy", "finding: Mass", "generated"]
  other = table["energy_boxes_of_others", "finding: Mass", "generated"]
  assert own.low <= other.value <= own.high
  assert table["energy", "finding: Mass", "real"].value == pytest.approx(1)


def test_localisation_is_undefined_for_too_few_boxes(judge):
  real, boxes = _squares(36)
  measured = localisation.measure(real, real, boxes, judge)
  (few,) = {m.text for m in measured if m.group == "finding: Effusion"}
  assert few == "undefined: 9 boxes with a value, expected at least 10"
  none = localisation.measure(real, real, np.full_like(boxes, np.nan), judge)
  (text,) = {m.text for m in none}
  assert text == "undefined: 0 boxes with a value, expected at least 10"
  assert {m.group for m in none} == {"all"}


def test_measurement_of_localisation_is_serialisable(judge):
  real, boxes = _squares(12)
  for one in localisation.measure(real, real, boxes, judge):
    assert measurement.Measurement(**dataclasses.asdict(one)) == one


def test_boxes_of_findings_that_were_not_requested_do_not_count():
  boxes = np.full((2, 14, 4), np.nan, np.float32)
  boxes[:, 3], boxes[1, 5] = 0.5, 0.2
  findings = np.zeros((2, 14))
  findings[0, 3] = findings[1, 5] = 1
  images, columns = localisation.requested_boxes(findings, boxes)
  assert images.tolist() == [0, 1]
  assert columns.tolist() == [3, 5]


def test_localisation_maps_are_gradient_times_activation():
  classifier = probe_fit.make_classifier(SETTINGS, 3)
  images = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 1), np.uint8)
  x = probe_fit.to_network(images)
  params = jax.jit(classifier.init)(jax.random.key(0), x)["params"]
  attribute = attribution.make_attribution_fn(SETTINGS, 3)
  maps = attribute(params, images, np.array([0, 2]))
  assert maps.shape == (2, 4, 4)
  assert float(maps.min()) >= 0
  # The rest of the network after that stage, written out: norm, pool, head.

  @jax.jit
  def captured(params, x):
    return classifier.apply(
      {"params": params}, x, capture_intermediates=True, mutable=["intermediates"]
    )

  _, state = captured(params, x)
  activation = state["intermediates"]["stages_1_0"]["__call__"][0]

  def logit(a, row, column):
    a = a[row][None]
    mean, mean2 = a.mean(), jnp.square(a).mean()
    a = (a - mean) * jax.lax.rsqrt(mean2 - mean**2 + 1e-6)
    a = jax.nn.relu(a * params["norm"]["scale"] + params["norm"]["bias"])
    pooled = jnp.concatenate([a.mean((1, 2)), a.max((1, 2))], axis=-1)[0]
    return pooled @ params["head"]["kernel"][:, column] + params["head"]["bias"][column]

  gradient_fn = jax.jit(jax.grad(logit))
  for row, column in enumerate((0, 2)):
    gradient = gradient_fn(activation, row, column)[row]
    expected = (jax.nn.relu(gradient) * jax.nn.relu(activation[row])).sum(axis=-1)
    np.testing.assert_allclose(maps[row], expected, rtol=1e-3, atol=1e-6)
