"""A stand-in CLIP is trained once, learns, and says what it is."""

import dataclasses
import json
import pathlib
import shutil

import numpy as np
import pytest

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.encoders import fitting, weights
from cxr_diffusion_jax.encoders.clip import model as clip_model
from cxr_diffusion_jax.encoders.clip import small as clip_small
from cxr_diffusion_jax.encoders.standin import training as standin

SETTINGS = standin.TrainSettings(
  sizes=clip_small.SmallClip(
    image_size=16, patch_size=8, width=16, image_layers=1, text_layers=1, num_heads=2,
    embedding=8, num_merges=30, max_tokens=16,
  ),
  num_steps=25, batch_size=8, learning_rate=1e-2,
)  # fmt: skip


@pytest.fixture(scope="module")
def inputs() -> tuple[np.ndarray, list[str], np.ndarray]:
  """Squares at a side, and words that name the side."""
  generator = np.random.default_rng(0)
  images = generator.integers(0, 60, (24, 20, 20, 1), np.uint8)
  findings = np.zeros((24, 2), np.float32)
  prompts = ["nothing"] * 24
  for i in range(0, 24, 3):
    images[i, 2:9, 2:9] += 180
    findings[i, 0], prompts[i] = 1, "square on the left"
    images[i + 1, 2:9, 11:18] += 180
    findings[i + 1, 1], prompts[i + 1] = 1, "square on the right"
  return images, prompts, findings


@pytest.fixture(scope="module")
def trained(inputs, tmp_path_factory) -> pathlib.Path:
  folder = tmp_path_factory.mktemp("standin") / "clip"
  return standin.train_standin(*inputs, folder, settings=SETTINGS)


def test_train_standin_learns_and_records_how(trained, inputs):
  marker = json.loads((trained / standin.MARKER).read_text(encoding="utf-8"))
  first, last = marker["losses"][0], marker["losses"][-1]
  for term in ("loss", "pixels", "meaning"):
    assert last[term] < 0.9 * first[term], term
  assert marker["standin"] is True
  assert marker["num_steps"] == len(marker["losses"]) == 25
  assert marker["num_images"] == 24
  model = clip_model.load(trained)
  assert marker["encoder"] == clip_model.describe(model)
  assert marker["encoder"].startswith("stand-in CLIP")
  assert abs(model.pixels.mean[0] - inputs[0].mean() / 255) < 1e-6


def test_train_standin_ignores_unknown_findings(inputs, tmp_path):
  images, prompts, findings = inputs
  unknown = findings.copy()
  unknown[:12, 0], unknown[:, 1] = np.nan, np.nan
  hasty = dataclasses.replace(SETTINGS, num_steps=1)
  folder = standin.train_standin(
    images, prompts, unknown, tmp_path / "clip", settings=hasty
  )
  (losses,) = standin.read_marker(folder)["losses"]
  assert np.isfinite(losses["findings"])
  assert np.isfinite(losses["meaning"])


def test_train_standin_does_nothing_twice(trained, inputs):
  before = {path: path.stat().st_mtime_ns for path in trained.iterdir()}
  messages = []
  standin.train_standin(
    *inputs, trained, settings=SETTINGS, progress=lambda *now: messages.append(now)
  )
  assert messages == []
  assert before == {path: path.stat().st_mtime_ns for path in trained.iterdir()}


def test_train_standin_is_deterministic(trained, inputs, tmp_path):
  messages = []
  again = standin.train_standin(
    *inputs,
    tmp_path / "clip",
    settings=SETTINGS,
    progress=lambda *now: messages.append(now),
  )
  assert [step for _, step, _ in messages] == list(range(1, 26))
  assert {total for _, _, total in messages} == {25}
  assert messages[0][0].startswith("stand-in CLIP, loss")
  assert clip_model.fingerprint(clip_model.load(again)) == clip_model.fingerprint(
    clip_model.load(trained)
  )
  assert [path.name for path in tmp_path.iterdir()] == ["clip"]


def test_train_standin_retrains_for_other_inputs(trained, inputs, tmp_path):
  images, prompts, findings = inputs
  folder = pathlib.Path(shutil.copytree(trained, tmp_path / "clip"))
  hasty = dataclasses.replace(SETTINGS, num_steps=1)
  standin.train_standin(images, prompts, 1 - findings, folder, settings=hasty)
  assert standin.read_marker(folder)["num_steps"] == 1
  assert clip_model.fingerprint(clip_model.load(folder)) != clip_model.fingerprint(
    clip_model.load(trained)
  )


def test_train_standin_leaves_nothing_after_divergence(inputs, tmp_path, monkeypatch):
  def diverged(key, params, opt_state, batch):
    return params, opt_state, {"loss": np.nan}

  # The real update takes ten seconds to compile.
  monkeypatch.setattr(fitting, "make_step_fn", lambda *_: diverged)
  with pytest.raises(FloatingPointError, match=r"stand-in CLIP at step 0"):
    standin.train_standin(*inputs, tmp_path / "clip", settings=SETTINGS)
  assert list(tmp_path.iterdir()) == []


def test_train_standin_keeps_the_old_folder_after_an_interruption(trained, inputs):
  class Interrupted(list):
    reads = 0

    def __getitem__(self, row):
      # After the fingerprint and the statistics, which read each image once.
      self.reads += 1
      if self.reads > 2 * len(self):
        raise KeyboardInterrupt
      return super().__getitem__(row)

  images, prompts, findings = inputs
  other = dataclasses.replace(SETTINGS, seed=1)
  before = standin.read_marker(trained)
  with pytest.raises(KeyboardInterrupt):
    standin.train_standin(
      Interrupted(images), prompts, findings, trained, settings=other
    )
  assert standin.read_marker(trained) == before


@pytest.mark.parametrize("drop", [0, 1, 2])
def test_train_standin_refuses_other_numbers_of_rows(inputs, tmp_path, drop):
  uneven = [rows[:-1] if i == drop else rows for i, rows in enumerate(inputs)]
  with pytest.raises(errors.InputError, match="at least two training images"):
    standin.train_standin(*uneven, tmp_path / "clip", settings=SETTINGS)


@pytest.mark.parametrize("name", ["tokenizer.json", "flax_model.msgpack"])
def test_a_standin_of_which_a_bit_changed_is_refused(trained, tmp_path, name):
  folder = shutil.copytree(trained, tmp_path / "clip")
  content = bytearray((folder / name).read_bytes())
  content[len(content) // 2] ^= 1
  (folder / name).write_bytes(content)
  with pytest.raises(errors.InputError, match=f"{name} is not as it was written"):
    weights.read(folder)


def test_read_marker_names_a_damaged_file(tmp_path):
  (tmp_path / "standin.json").write_text("{")
  with pytest.raises(errors.InputError, match=r"standin\.json is not readable"):
    standin.read_marker(tmp_path)
