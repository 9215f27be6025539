"""Two sentences judge images: planted findings are seen, work that is done is kept."""

import dataclasses

import numpy as np
import pytest

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.data.columns import writer as column_writer
from cxr_diffusion_jax.data.image_sets.image_set import ImageSet
from cxr_diffusion_jax.data.sources.nih import metadata
from cxr_diffusion_jax.encoders.elixr import zero_shot as elixr_zero_shot
from cxr_diffusion_jax.encoders.elixr.zero_shot import PROMPTS
from cxr_diffusion_jax.evaluation import assessment
from cxr_diffusion_jax.evaluation import metric as metric_lib
from cxr_diffusion_jax.evaluation.eval_context import EvalContext
from cxr_diffusion_jax.evaluation.judges import opening, zero_shot

EFFUSION, EDEMA = metadata.FINDINGS.index("Effusion"), metadata.FINDINGS.index("Edema")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Encoder:
  """Axis 2 k is a text that says finding k, 2 k + 1 one that denies it.

  The brightness of pixel k of an image says how much of finding k one of its 32 outputs
  has; the others say nothing.
  """

  description: str = "an encoder of axes"
  standin: bool = True
  seen: list = dataclasses.field(default_factory=list)

  def encode_text(self, columns, texts):
    assert list(columns) == [elixr_zero_shot.TEXT]
    return {elixr_zero_shot.TEXT: 3.0 * np.eye(128)[: len(texts)]}

  def encode_images(self, columns, images):
    assert list(columns) == [elixr_zero_shot.IMAGES]
    self.seen.extend(image.shape for image in images)
    outputs = np.zeros((len(images), 32, 128))
    outputs[..., -1] = 1
    shown = np.stack(images)[:, 0, :14] / 255.0
    outputs[:, 5, 0:28:2] = shown
    outputs[:, 7, 1:28:2] = 1 - shown
    return {elixr_zero_shot.IMAGES: outputs}


def _images(seed, count=150, known=(EFFUSION, EDEMA)):
  """Images that show what was asked for, of some findings, among other things."""
  generator = np.random.default_rng(seed)
  asked = (generator.random((count, 14)) < 0.3).astype(np.uint8)
  asked[:, 0] = 0
  images = generator.integers(0, 256, (count, 16, 16, 1), np.uint8)
  for k in known:
    images[:, 0, k, 0] = 180 * asked[:, k] + generator.integers(0, 70, count)
  ids = np.array([f"{i:04d}" for i in range(count)])
  return ImageSet(
    name="made",
    images=images,
    ids=ids,
    labels={"findings": asked},
    vocabulary=metadata.FINDINGS,
  )


@pytest.fixture
def scorer():
  return elixr_zero_shot.make_scorer(Encoder(), PROMPTS)


def _find(table, metric, group="all"):
  (one,) = (m for m in table if (m.metric, m.group) == (metric, group))
  return one


def test_zero_shot_sees_planted_findings(scorer):
  table = zero_shot.measure(scorer, _images(0))
  for k in (EFFUSION, EDEMA):
    group = f"finding: {metadata.FINDINGS[k]}"
    assert _find(table, "auroc", group).value == 1
    assert _find(table, "margin_with", group).low > 0.2
    assert _find(table, "margin_without", group).high < -0.2
  chance = _find(table, "auroc", "finding: Mass")
  assert chance.low < 0.5 < chance.high
  never = _find(table, "auroc", "finding: Atelectasis")
  assert never.value is None
  assert "no image" in never.reason
  assert _find(table, "margin_with", "finding: Atelectasis").value is None
  assert {(one.subject, one.of, one.standin, one.num) for one in table} == {
    ("adherence", "generated", True, 150)
  }


def test_measure_averages_margins_over_findings(scorer):
  table = zero_shot.measure(scorer, _images(1))
  for metric in ("auroc", "margin_with", "margin_without"):
    each = [
      one.value
      for one in table
      if one.metric == metric and one.group != "all" and one.value is not None
    ]
    whole = _find(table, metric)
    assert len(each) == 13
    assert whole.value == pytest.approx(np.mean(each), abs=1e-6)
    assert whole.low < whole.value < whole.high


def test_measure_of_shuffled_conditions_is_chance(scorer):
  images = _images(2)
  shuffled = {
    "findings": np.random.default_rng(3).permutation(images.labels["findings"])
  }
  images = dataclasses.replace(images, labels=shuffled)
  table = zero_shot.measure(scorer, images)
  assert _find(table, "auroc").low < 0.5 < _find(table, "auroc").high


def test_measure_encodes_images_once(scorer, tmp_path):
  images = _images(4)
  first = zero_shot.measure(scorer, images, cache=tmp_path)
  assert len(scorer.encoder.seen) == 150
  again = zero_shot.measure(scorer, images, cache=tmp_path)
  assert again == first
  assert len(scorer.encoder.seen) == 150
  images.images[149] = 0
  zero_shot.measure(scorer, images, cache=tmp_path)
  assert len(scorer.encoder.seen) == 150 + 150 % elixr_zero_shot.BLOCK
  other = elixr_zero_shot.make_scorer(
    Encoder(description="another", seen=scorer.encoder.seen), PROMPTS
  )
  other.margins(images.images[:1], cache=tmp_path)
  assert len(scorer.encoder.seen) == 151 + 150 % elixr_zero_shot.BLOCK


def test_assess_measures_again_with_another_scorer(scorer, tmp_path):
  images = _images(4, 40)
  generated = assessment.GeneratedSet(images=images, features={})
  for one in (
    scorer,
    elixr_zero_shot.make_scorer(Encoder(description="published"), PROMPTS),
    dataclasses.replace(scorer, positive=scorer.negative, negative=scorer.positive),
  ):
    judges, _ = opening.open_judges(None, "none", one)
    context = EvalContext(
      split="test",
      conditions=images,
      reference=images,
      training=None,
      judge=None,
      judges=judges,
      scorer=one,
      extractors=(),
      skipped={},
      features={},
    )
    records = metric_lib.select(["auroc"])
    kept = assessment.assess(context, generated, records, folder=tmp_path)
    fresh = assessment.assess(context, generated, records)
    assert kept.measurements == fresh.measurements
  assert len(list(tmp_path.glob("assessment-*.json"))) == 3


def test_zero_shot_rejects_images_before_encoding(scorer):
  few = _images(5).take(range(4))
  with pytest.raises(errors.InputError, match="5 images with it"):
    zero_shot.measure(scorer, few)
  assert not scorer.encoder.seen


def test_measure_column_equals_measure_of_the_images(scorer, tmp_path):
  images = _images(6)
  outputs = scorer.encoder.encode_images(
    [elixr_zero_shot.IMAGES], [image[..., 0] for image in images.images]
  )[elixr_zero_shot.IMAGES]
  column = column_writer.write_column(
    tmp_path,
    ids={"test": images.ids},
    name=elixr_zero_shot.IMAGES,
    shape=(32, 128),
    encoder=f"{scorer.encoder.description}, all of a tree",
    standin=True,
    fingerprint="",
    batches=[(images.ids[2:], outputs[2:])],
    missing="drop",
    dtype="float32",
  )
  findings = images.labels["findings"]
  stored = zero_shot.measure_column(
    scorer, column, "test", findings, images.ids, vocabulary=metadata.FINDINGS
  )
  result = zero_shot.measure(scorer, images.take(range(2, 150)))
  assert [one.value for one in stored] == pytest.approx(
    [one.value for one in result], nan_ok=True
  )
  assert {(one.of, one.judge) for one in stored} == {
    ("real", f"{zero_shot.JUDGE}, stored")
  }
  other = elixr_zero_shot.make_scorer(Encoder(description="another"), PROMPTS)
  with pytest.raises(errors.InputError, match="which encodes the prompts"):
    zero_shot.measure_column(
      other, column, "test", findings, images.ids, vocabulary=metadata.FINDINGS
    )
