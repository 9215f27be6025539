"""Figures of anatomy by closed forms, and planted agreement, bias and ignorance."""

import dataclasses

import numpy as np
from PIL import Image
import pytest
import scipy.stats

from cxr_diffusion_jax.data.image_sets import image_set
from cxr_diffusion_jax.data.sources import phantom
from cxr_diffusion_jax.data.sources.nih import metadata
from cxr_diffusion_jax.encoders.extractors import extractor as extractor_lib
from cxr_diffusion_jax.evaluation.judges import anatomy
from cxr_diffusion_jax.evaluation.judges import opening as judges_lib
from cxr_diffusion_jax.extras.phantom import tree as phantom_tree

CARDIOMEGALY = metadata.FINDINGS.index("Cardiomegaly")


class Reader:
  """A stand-in anatomy regressor: reads the ratio from the first pixel."""

  names = ("cardiothoracic_ratio",)
  num_training = 1234

  def quantities(self, images):
    return {"cardiothoracic_ratio": np.array([x[0, 0, 0] / 255 for x in images])}


def _set(ratios, name="real"):
  images = np.zeros((len(ratios), 4, 4, 1), np.uint8)
  images[:, 0, 0, 0] = np.round(np.asarray(ratios) * 255)
  findings = np.zeros((len(ratios), 14), np.uint8)
  findings[:, CARDIOMEGALY] = np.arange(len(ratios)) % 3 == 0
  return image_set.ImageSet(
    name=name,
    images=images,
    ids=np.array([f"{i}" for i in range(len(ratios))]),
    labels={"findings": findings, "patient": np.arange(len(ratios)) // 2},
    vocabulary=metadata.FINDINGS,
  )


@pytest.fixture
def asked():
  ratios = np.random.default_rng(0).uniform(0.4, 0.5, 120)
  return ratios + 0.15 * (np.arange(120) % 3 == 0)


def _table(result, real, facts):
  reported = {"cardiothoracic_ratio": facts}
  measured = anatomy.measure(result, real, reported, Reader())
  return {
    (m.metric.removeprefix("cardiothoracic_ratio_"), m.group, m.of): m for m in measured
  }


def test_anatomy_error_of_copies_is_zero(asked):
  real = _set(asked)
  table = _table(dataclasses.replace(real, name="copies"), real, asked)
  for of in ("generated", "real"):
    assert table["error", "all", of].value < 1 / 255
    assert table["correlation", "all", of].value > 0.999
    low, high = (getattr(table["bias", "all", of], x) for x in ("low", "high"))
    assert -1 / 255 < low < high < 1 / 255
  assert table["error_conditions_of_others", "all", "generated"].value > 0.05


def test_anatomy_separates_bias_from_ignorance(asked):
  real = _set(asked)
  biased = _table(_set(asked + 0.1), real, asked)
  assert biased["bias", "all", "generated"].value == pytest.approx(0.1, abs=0.002)
  assert biased["error", "all", "generated"].value == pytest.approx(0.1, abs=0.002)
  assert biased["correlation", "all", "generated"].low > 0.99
  shuffled = asked[np.random.default_rng(1).permutation(120)]
  ignorant = _table(_set(shuffled), real, asked)
  correlation = ignorant["correlation", "all", "generated"]
  assert correlation.low < 0 < correlation.high
  error = ignorant["error", "all", "generated"]
  chance = ignorant["error_conditions_of_others", "all", "generated"]
  assert error.low < chance.value < error.high
  assert ignorant["correlation", "all", "real"].value > 0.999


def test_anatomy_correlation_within_a_finding_is_low_without_the_ratio():
  enlarged = 0.15 * (np.arange(600) % 3 == 0)
  asked, own = np.random.default_rng(2).uniform(0.4, 0.5, (2, 600)) + enlarged
  table = _table(_set(own), _set(asked), asked)
  assert table["correlation", "all", "generated"].low > 0.6
  for name in anatomy.GROUPS:
    within = table["correlation", name, "generated"]
    assert abs(within.value) < 0.2
    assert within.low < 0.1
    assert table["correlation", name, "real"].value > 0.99
    assert within.num == (200 if "Cardiomegaly" in name else 400)


def test_figures_equal_scipy_and_numpy(asked):
  measured = asked + np.random.default_rng(3).normal(0, 0.05, 120)
  weights = np.stack([np.ones(120), np.arange(120) % 3])
  result = anatomy.figures(measured, asked, weights)
  for r, count in enumerate(weights.astype(int)):
    x, y = np.repeat(measured, count), np.repeat(asked, count)
    assert result["correlation"][r] == pytest.approx(scipy.stats.pearsonr(x, y)[0])
    assert result["error"][r] == pytest.approx(np.abs(x - y).mean())
    assert result["bias"][r] == pytest.approx((x - y).mean())
  same = anatomy.figures(np.full(120, 0.5), asked, weights)
  assert same["correlation"].tolist() == [0, 0]


def test_error_of_others_is_the_mean_over_other_images(asked):
  measured = asked[::-1] + 0.01
  every = np.abs(measured[:, None] - asked[None])
  expected = (every.sum(axis=1) - np.diagonal(every)) / 119
  np.testing.assert_allclose(anatomy.error_of_others(measured, asked), expected)


def test_anatomy_is_undefined_for_too_few_images(asked):
  real = _set(asked[:45])
  table = _table(real, real, asked[:45])
  few = table["error", "finding: Cardiomegaly", "generated"]
  assert few.text == "undefined: 15 images, expected at least 20"
  assert few.num == 15
  assert table["error", "all", "generated"].value is not None


def test_facts_of_a_real_tree_is_none(asked, tmp_path):
  (tmp_path / "original").mkdir()
  (tmp_path / "Data_Entry_2017.csv").touch()
  Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "original" / "1.png")
  assert anatomy.facts_of(tmp_path, ["1"]) is None
  real = _set(asked)
  (only,) = anatomy.measure(real, real, None, None)
  assert only.reason == "true measures are known of phantoms alone"


def test_facts_of_phantoms_are_those_of_the_renderer(tmp_path):
  root = phantom_tree.write_tree(tmp_path / "tree", num_images=4, size=32, seed=3)
  stems = sorted(path.stem for path in root.glob("original/*/images/*.png"))
  facts = anatomy.facts_of(root, stems[::-1])
  assert set(facts) == set(anatomy.QUANTITIES)
  for row, stem in enumerate(stems[::-1]):
    (path,) = root.glob(f"original/*/images/{stem}.png")
    reported = phantom.read_facts(path)
    assert facts["cardiothoracic_ratio"][row] == reported["cardiothoracic_ratio"]
    assert facts["lung_area_left"][row] == reported["lung_area"][1]
    assert facts["diaphragm_right"][row] == reported["diaphragm"][0]


def test_of_segmenter_compares_anatomy_that_both_images_show(asked):
  """A segmenter that reads the ratio from the first pixel; 0 is not seen."""
  network = extractor_lib.Extractor(
    name="onnx-organs",
    layer="",
    standin=False,
    fingerprint="",
    width=3,
    batch_size=40,
    apply_fn=lambda params, images: (
      images[:, 0, 0] / np.array([255, 2550, 2550], np.float32)
    ),
  )
  real, ratios = _set(asked), asked + 0.1
  ratios[:30] = 0
  judge = judges_lib.of_segmenter(network, real)
  figures = judge(_set(ratios), "generated", {})
  table = {(one.metric, one.group): one for one in figures}
  error = table["cardiothoracic_ratio_error", "all"]
  assert (error.num, error.patients, error.judge) == (90, 45, "onnx-organs")
  assert error.value == pytest.approx(0.1, abs=0.002)
  assert not error.standin
  correlation = table["lung_area_left_correlation", "finding: Cardiomegaly"]
  assert (correlation.num, correlation.value > 0.99) == (30, True)
  assert {one.of for one in figures} == {"generated"}
  assert judge(real, "real", {}) == []
  assert judges_lib.of_segmenter(None, real) == anatomy.NO_SEGMENTER
