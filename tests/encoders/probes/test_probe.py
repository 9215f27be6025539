"""A probe is trained once, sees what is there, and is whole or not there at all."""

import dataclasses
import errno
import json
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cxr_diffusion_jax import artifacts, checked_files, errors
from cxr_diffusion_jax.encoders import fitting
from cxr_diffusion_jax.encoders.probes import (
  finding_rates,
  probe,
  probe_fit,
  probe_settings,
)
from cxr_diffusion_jax.evaluation.judges import adherence

SETTINGS = probe_settings.ProbeSettings(
  widths=(4, 8),
  norm_groups=2,
  num_steps=60,
  check_every=20,
  batch_size=8,
  learning_rate=1e-2,
)


def _squares(seed, count):
  """Images with a bright square, a dark square, both or none; a third finding never."""
  generator = np.random.default_rng(seed)
  images = generator.integers(90, 150, (count, 16, 16, 1), np.uint8)
  findings = np.zeros((count, 3), np.uint8)
  for i in range(count):
    findings[i, :2] = i % 4 // 2, i % 2
    for column, level in ((0, 255), (1, 0)):
      if findings[i, column]:
        y, x = generator.integers(0, 10, 2)
        images[i, y : y + 6, x : x + 6] = level
  return images, findings


@pytest.fixture(scope="module")
def inputs():
  return _squares(0, 48)


@pytest.fixture(scope="module")
def validation():
  return _squares(1, 32)


@pytest.fixture(scope="module")
def folder(inputs, validation, tmp_path_factory) -> pathlib.Path:
  folder = tmp_path_factory.mktemp("probe") / "probe"
  probe.train_probe(*inputs, folder, validation=validation, settings=SETTINGS)
  return folder


def test_probe_finds_planted_findings(folder):
  images, findings = _squares(2, 64)
  trained = probe.load_probe(folder)
  scores = trained.scores(images)
  assert scores.shape == (64, 3)
  assert scores.dtype == np.float32
  assert 0 < scores.min() < scores.max() < 1
  result = adherence.measure(scores, findings, trained.thresholds)
  assert result.counted.tolist() == [True, True, False]
  assert result.values["auroc"][:2].min() > 0.9
  assert result.macro["found"].value > result.macro["false_alarms"].value + 0.5


def test_youden_thresholds_are_of_the_validation_images(folder, validation):
  trained = probe.load_probe(folder)
  expected = probe.youden_thresholds(trained.scores(validation[0]), validation[1])
  np.testing.assert_array_equal(trained.thresholds, expected)
  assert np.isnan(trained.thresholds).tolist() == [False, False, True]


def test_probe_file_describes_its_training(folder):
  described = json.loads((folder / probe.DESCRIPTION).read_text())
  assert described["thresholds"][2] is None
  assert described["training"]["num_images"] == 48
  assert described["training"]["num_validation_images"] == 32
  losses = described["training"]["losses"]
  assert losses[-1] < 0.5 * losses[0]
  assert described["training"]["num_steps"] == 60
  assert [*described["training"]["validation_auroc"]] == ["20", "40", "60"]
  assert described["training"]["best_step"] in (20, 40, 60)
  assert described["settings"]["widths"] == [4, 8]
  assert {path.name for path in folder.iterdir()} == {probe.DESCRIPTION, probe.WEIGHTS}


def test_probe_scores_do_not_depend_on_the_batch(folder, inputs):
  trained = probe.load_probe(folder)
  images = inputs[0][:11]
  together = trained.scores(images)
  alone = np.concatenate([trained.scores(image[None]) for image in images])
  np.testing.assert_allclose(together, alone, atol=1e-6)
  np.testing.assert_array_equal(trained.scores(list(images)), together)
  assert trained.scores(images[:0]).shape == (0, 3)


def test_probe_scores_stay_within_zero_and_one(folder, inputs):
  trained = probe.load_probe(folder)
  params = jax.tree.map(lambda leaf: leaf, trained.params)
  params["head"]["bias"] = jnp.array([500.0, -500.0, 0.0])
  scores = dataclasses.replace(trained, params=params).scores(inputs[0][:2])
  assert (scores > 0).all()
  assert (scores < 1).all()


def test_saved_probe_of_other_settings_is_kept_unless_they_are_asked_for(
  folder, inputs, validation
):
  """As where an accelerator trained a larger network."""
  kept = probe.train_probe(*inputs, folder, validation=validation)
  assert kept.fingerprint == probe.read_description(folder)["fingerprint"]


def test_probe_is_trained_once(folder, inputs, validation):
  before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
  messages = []
  again = probe.train_probe(
    list(inputs[0]),  # Another kind of sequence, the same images.
    inputs[1],
    folder,
    validation=validation,
    settings=SETTINGS,
    progress=lambda *now: messages.append(now),
  )
  assert messages == []
  assert before == {path: path.stat().st_mtime_ns for path in folder.iterdir()}
  assert again.fingerprint == probe.read_description(folder)["fingerprint"]


def test_probe_is_deterministic_and_interruptions_change_nothing(
  folder, inputs, validation, tmp_path, monkeypatch
):
  monkeypatch.setattr(checked_files, "SAVE_PERIOD", 0)
  messages, killed = [], []

  def report(*now):
    if now[1] == 31 and not killed:
      killed.append(now)
      raise KeyboardInterrupt
    messages.append(now)

  def train():
    return probe.train_probe(
      list(inputs[0]),
      inputs[1],
      tmp_path,
      validation=validation,
      settings=SETTINGS,
      progress=report,
    )

  with pytest.raises(KeyboardInterrupt):
    train()
  again = train()
  assert not (tmp_path / probe.UNFINISHED).exists()
  assert [done for _, done, _ in messages] == list(range(1, 61))
  assert {total for _, _, total in messages} == {60}
  assert messages[0][0].startswith("probe, loss")
  first = (folder / probe.WEIGHTS).read_bytes()
  assert (tmp_path / probe.WEIGHTS).read_bytes() == first
  loaded = probe.load_probe(folder)
  images = inputs[0][:5]
  np.testing.assert_array_equal(again.scores(images), loaded.scores(images))
  np.testing.assert_array_equal(again.thresholds, loaded.thresholds)


@pytest.fixture
def untrained(monkeypatch):
  """Counts trainings instead of doing them."""
  calls = []

  def fit(images, findings, settings, *, validation, unfinished, progress):
    calls.append(settings)
    classifier = probe_fit.make_classifier(settings, findings.shape[1])
    like = jnp.zeros((1, 16, 16, 1))
    params = jax.jit(classifier.init)(jax.random.key(settings.seed), like)["params"]
    losses = [{"loss": 1.0}] * settings.num_steps
    return fitting.Fitted(params, losses, [(60, (0.9, -1.0))], 60)

  monkeypatch.setattr(probe_fit, "fit", fit)
  return calls


@pytest.mark.parametrize("change", ["findings", "image", "validation", "settings"])
def test_probe_is_trained_again_for_other_inputs(
  change, folder, inputs, validation, tmp_path, untrained
):
  copy = pathlib.Path(shutil.copytree(folder, tmp_path / "probe"))
  (copy / "mine.txt").write_text("kept")
  images, findings = (array.copy() for array in inputs)
  settings = SETTINGS
  if change == "findings":
    findings[3, 0] ^= 1
  elif change == "image":
    images[5, 0, 0] ^= 1
  elif change == "validation":
    validation = validation[0][:-1], validation[1][:-1]
  else:
    settings = dataclasses.replace(SETTINGS, seed=1)
  result = probe.train_probe(
    images, findings, copy, validation=validation, settings=settings
  )
  assert untrained == [settings]
  assert probe.load_probe(copy).fingerprint == result.fingerprint
  assert result.fingerprint != probe.load_probe(folder).fingerprint
  assert (copy / "mine.txt").read_text() == "kept"


def test_train_probe_leaves_nothing_after_an_interrupted_save(
  folder, inputs, validation, tmp_path, monkeypatch, untrained
):
  def full(*_):
    raise OSError(errno.ENOSPC, "no space left")

  copy = pathlib.Path(shutil.copytree(folder, tmp_path / "probe"))
  other = dataclasses.replace(SETTINGS, seed=2)
  with monkeypatch.context() as patch:
    patch.setattr(artifacts.os, "replace", full)
    with pytest.raises(OSError, match="no space"):
      probe.train_probe(*inputs, copy, validation=validation, settings=other)
  with pytest.raises(errors.InputError, match=r"no probe\.json"):
    probe.load_probe(copy)
  probe.train_probe(*inputs, copy, validation=validation, settings=other)
  assert len(untrained) == 2
  assert np.isfinite(probe.load_probe(copy).scores(inputs[0][:2])).all()


def test_train_probe_keeps_the_old_probe_after_failed_training(
  folder, inputs, validation, tmp_path, monkeypatch
):
  def interrupted(*_, **__):
    raise KeyboardInterrupt

  diverging = dataclasses.replace(SETTINGS, learning_rate=float("nan"))
  with pytest.raises(FloatingPointError, match="probe at step 1"):
    probe.train_probe(
      *inputs, tmp_path / "new", validation=validation, settings=diverging
    )
  assert not (tmp_path / "new").exists()
  before = (folder / probe.DESCRIPTION).read_bytes()
  monkeypatch.setattr(probe_fit, "fit", interrupted)
  other = dataclasses.replace(SETTINGS, seed=3)
  with pytest.raises(KeyboardInterrupt):
    probe.train_probe(*inputs, folder, validation=validation, settings=other)
  assert (folder / probe.DESCRIPTION).read_bytes() == before


def test_load_probe_reports_damage(folder, inputs, validation, tmp_path):
  copy = pathlib.Path(shutil.copytree(folder, tmp_path / "probe"))
  data = (copy / probe.WEIGHTS).read_bytes()
  (copy / probe.WEIGHTS).write_bytes(data[:-1])
  with pytest.raises(errors.InputError, match=r"remove .*probe\.json"):
    probe.train_probe(*inputs, copy, validation=validation, settings=SETTINGS)
  (copy / probe.WEIGHTS).unlink()
  with pytest.raises(errors.InputError, match="not what was saved"):
    probe.load_probe(copy)
  described = dict(probe.read_description(copy), format=0)
  (copy / probe.DESCRIPTION).write_text(json.dumps(described))
  with pytest.raises(errors.InputError, match="train it again"):
    probe.load_probe(copy)


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"settings": {"widths": [4, 16]}}, "of a wrong shape"),
    ({"settings": {"widths": [4, 8], "blocks": 10**9}}, "more layers than any probe"),
    ({"settings": {}}, r"probe\.json is absent or damaged"),
    ({"thresholds": "high"}, "describe no model"),
    ({"fingerprint": None, "weights": None}, "not what was saved"),
  ],
)
def test_load_probe_refuses_a_description_of_another_network(
  folder, tmp_path, changes, message
):
  copy = shutil.copytree(folder, tmp_path / "probe")
  described = probe.read_description(copy)
  if changes.get("settings"):
    changes = {"settings": {**described["settings"], **changes["settings"]}}
  (copy / probe.DESCRIPTION).write_text(json.dumps({**described, **changes}))
  with pytest.raises(errors.InputError, match=message):
    probe.load_probe(copy)


def test_probe_refuses_other_images(folder, inputs, validation, tmp_path):
  images, findings = inputs
  trained = probe.load_probe(folder)
  for wrong in (images[:, :8], images.astype(np.float32), images[..., 0]):
    with pytest.raises(errors.InputError, match="bring all images to one size"):
      trained.scores(wrong)
    with pytest.raises(errors.InputError, match="bring all images to one size"):
      probe.train_probe(wrong, findings, tmp_path, validation=validation)
  mixed = [*images[:-1], images[-1, :8, :8]]
  with pytest.raises(errors.InputError, match="bring all images to one size"):
    probe.train_probe(mixed, findings, tmp_path, validation=validation)


def test_train_probe_refuses_other_numbers_of_rows(inputs, validation, tmp_path):
  images, findings = inputs
  for wrong in ((images[:-1], findings), (images[:0], findings[:0])):
    with pytest.raises(errors.InputError, match="training images"):
      probe.train_probe(*wrong, tmp_path, validation=validation)
    with pytest.raises(errors.InputError, match="validation images"):
      probe.train_probe(*inputs, tmp_path, validation=wrong)
  for wrong in (findings[:, :2], findings * 2):
    with pytest.raises(ValueError, match="findings"):
      probe.train_probe(*inputs, tmp_path, validation=(images, wrong))


def test_positive_weights_of_rare_findings_are_limited():
  findings = np.zeros((100, 4))
  for column, count in enumerate((50, 25, 1, 0)):
    findings[:count, column] = 1
  weights = finding_rates.positive_weights(findings, 5.0)
  np.testing.assert_allclose(weights, [1, 3, 5, 1], rtol=1e-6)


def test_macro_auroc_is_the_share_of_ordered_pairs():
  scores = np.array([[0.1, 0.9], [0.4, 0.9], [0.4, 0.9], [0.8, 0.9]])
  findings = np.array([[0, 1], [1, 1], [0, 1], [1, 1]])
  # Pairs of the first: 3 in order, a tie of 4; the second has one class alone.
  assert finding_rates.macro_auroc(scores, findings) == 3.5 / 4
  assert finding_rates.macro_auroc(scores[:, 1:], findings[:, 1:]) == 0


def test_findings_loss_has_no_gradient_of_unknown_findings():
  generator = np.random.default_rng(0)
  logits = generator.standard_normal((6, 3)).astype(np.float32)
  findings = (generator.random((6, 3)) < 0.5).astype(np.float32)
  unknown = generator.random((6, 3)) < 0.4
  weights = np.float32([1, 2, 3])
  partly = np.where(unknown, np.nan, findings)
  loss, gradient = jax.value_and_grad(probe_fit.findings_loss)(logits, partly, weights)
  whole = jax.grad(probe_fit.findings_loss)(logits, findings, weights)
  assert np.isfinite(loss)
  assert (np.asarray(gradient)[unknown] == 0).all()
  np.testing.assert_array_equal(np.asarray(gradient)[~unknown], whole[~unknown])


def test_weights_and_areas_are_of_the_rows_whose_finding_is_known():
  generator = np.random.default_rng(0)
  findings = (generator.random((60, 3)) < 0.3).astype(np.float32)
  scores = generator.random((60, 3))
  findings[:20, 0], findings[:, 2] = np.nan, np.nan
  weights = finding_rates.positive_weights(findings, 9.0)
  known = finding_rates.positive_weights(findings[20:, :1].astype(np.uint8), 9.0)
  np.testing.assert_allclose(weights[[0, 2]], [known[0], 1], rtol=1e-6)
  alone = [
    finding_rates.macro_auroc(scores[rows, k : k + 1], findings[rows, k : k + 1])
    for rows, k in ((slice(20, None), 0), (slice(None), 1))
  ]
  assert finding_rates.macro_auroc(scores, findings) == pytest.approx(np.mean(alone))
  thresholds = probe.youden_thresholds(scores, findings)
  (first,) = probe.youden_thresholds(scores[20:, :1], findings[20:, :1])
  assert thresholds[0] == first
  assert np.isnan(thresholds[2])


def test_probe_takes_unknown_findings(inputs, validation, tmp_path, untrained):
  images, findings = inputs
  partly = findings.astype(np.float32)
  partly[::3, 0], partly[:, 1] = np.nan, np.nan
  given = {"validation": validation, "settings": SETTINGS}
  first = probe.train_probe(images, partly, tmp_path, **given)
  # Unknown in training is no finding that the probe can see.
  assert np.isnan(first.thresholds).tolist() == [False, True, True]
  again = probe.train_probe(images, partly, tmp_path, **given)
  assert len(untrained) == 1
  assert again.fingerprint == first.fingerprint
  whole = probe.train_probe(images, findings, tmp_path, **given)
  assert whole.fingerprint != first.fingerprint


def test_large_images_are_reduced():
  images = np.full((2, 448, 448, 1), 255, np.uint8)
  assert probe_fit.to_network(images).shape == (2, 224, 224, 1)
  np.testing.assert_allclose(probe_fit.to_network(images), 1, atol=1e-5)
  assert probe_fit.to_network(images[:, :64, :64]).shape == (2, 64, 64, 1)


def test_default_settings_suit_the_images():
  settings = probe_settings.default_settings(64, 1000, num_steps=9)
  assert (settings.stem_stride, settings.check_every) == (2, 100)
  assert (settings.num_steps, settings.widths[0]) == (9, 16)
  large = probe_settings.default_settings(512, 100_000, network="resnet18", patience=2)
  assert (large.stem_stride, large.check_every, large.patience) == (4, 390, 2)
  assert (large.widths[0], large.blocks, large.num_steps) == (64, 2, 1800)
  network = probe_fit.make_classifier(large, 3)
  images = jax.ShapeDtypeStruct((2, 512, 512, 1), np.uint8)
  logits, _ = jax.eval_shape(
    lambda key, x: network.init_with_output(key, probe_fit.to_network(x)),
    jax.random.key(0),
    images,
  )
  assert logits.shape == (2, 3)
  with pytest.raises(errors.InputError, match="small"):
    probe_settings.default_settings(64, 100, network="huge")
