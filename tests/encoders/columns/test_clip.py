"""Columns of a CLIP: its own numbers, made once, and made again when it is another."""

from collections.abc import Callable
import dataclasses
import os
import pathlib
import shutil

import numpy as np
import pytest

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.conditioning import base as conditioning
from cxr_diffusion_jax.data.columns import column as columns_lib
from cxr_diffusion_jax.data.records import records as records_lib
from cxr_diffusion_jax.encoders import base, encoding, opening
from cxr_diffusion_jax.encoders.clip import model as clip_model
from cxr_diffusion_jax.encoders.columns import clip as clip_columns

pytestmark = pytest.mark.usefixtures("one_by_one")

NAMES = ("clip_text", "clip_patches", "clip_image")
NUM_IMAGES = 24


@pytest.fixture
def records(settings, open_records) -> records_lib.Records:
  return open_records(settings)


@pytest.fixture
def save(settings, records, make_clip) -> Callable[..., str]:
  """Saves a CLIP whose tokenizer knows the tree's words: `save("clip", seed=1)`."""
  words = encoding.record_prompts(settings, records, "train")
  return lambda name="clip", **options: str(make_clip(name, words, **options))


@pytest.fixture
def counted(monkeypatch) -> dict[str, int]:
  """How often a CLIP was loaded, and how many rows were encoded."""
  counts = {"loaded": 0, "rows": 0}
  load = clip_model.load

  def counted_load(*given, **options):
    counts["loaded"] += 1
    return load(*given, **options)

  def count_rows(encode):
    def counted_rows(self, names, rows):
      counts["rows"] += len(rows)
      return encode(self, names, rows)

    return counted_rows

  monkeypatch.setattr(clip_model, "load", counted_load)
  for method in ("encode_text", "encode_images"):
    encode = getattr(clip_columns.ClipEncoder, method)
    monkeypatch.setattr(clip_columns.ClipEncoder, method, count_rows(encode))
  return counts


def make(settings, records, needs, *options) -> None:
  clip_columns.make(settings, records, needs.specs, *options)


def folder_of(settings, needs) -> pathlib.Path:
  return encoding.folder(settings, needs.specs[0])


def opened(settings, needs) -> dict[str, columns_lib.Column | None]:
  folder = folder_of(settings, needs)
  return {name: columns_lib.open_column(folder, name) for name in needs.columns}


def values(column: columns_lib.Column, split: str) -> np.ndarray:
  return np.stack(list(column.source(split)))


def times(folder: pathlib.Path) -> dict[pathlib.Path, int]:
  files = [path for path in folder.rglob("*") if path.is_file()]
  return {path: path.stat().st_mtime_ns for path in files}


def images(records: records_lib.Records, split: str) -> list[np.ndarray]:
  return [row["image"][..., 0] for row in records_lib.RecordSource(records, split)]


def test_clip_columns_have_the_encoders_numbers_in_row_order(settings, records, save):
  needs = base.needs(*NAMES, model=save())
  make(settings, records, needs)
  encoder = clip_columns.load(needs.specs[0].model, batch_size=1)
  result = opened(settings, needs)
  for split in records.num_rows:
    prompts = encoding.record_prompts(settings, records, split)
    wanted = encoder.encode_text(NAMES[:1], prompts)
    wanted |= encoder.encode_images(NAMES[1:], images(records, split))
    for name, column in result.items():
      np.testing.assert_allclose(
        values(column, split), wanted[name], rtol=1e-3, atol=1e-3, err_msg=name
      )
  for name, column in result.items():
    about = column.description
    assert (about.encoder, about.standin) == (encoder.description, True)
    assert (about.shape, about.dtype) == (encoder.shapes[name], "float16")
    assert len(np.unique(values(column, "train"), axis=0)) > 10, name


def test_clip_text_is_zero_exactly_at_padding(settings, records, save):
  needs = base.needs("clip_text", model=save())
  make(settings, records, needs)
  (column,) = opened(settings, needs).values()
  prompts = encoding.record_prompts(settings, records, "train")
  model = clip_model.load(needs.specs[0].model)
  _, mask, _ = clip_model.encode_text(model, prompts, batch_size=1)
  assert not mask.all()
  np.testing.assert_array_equal((values(column, "train") != 0).any(-1), mask)
  stream = conditioning.stream(values(column, "train"))
  np.testing.assert_array_equal(stream.mask, mask)


def test_clip_columns_are_not_made_twice(settings, records, save, counted):
  needs = base.needs(*NAMES, model=save())
  make(settings, records, needs)
  assert counted == {"loaded": 1, "rows": 3 * NUM_IMAGES}
  before = times(settings.records_folder)
  messages = []
  make(settings, records, needs, lambda *now: messages.append(now))
  assert counted == {"loaded": 1, "rows": 3 * NUM_IMAGES}
  assert times(settings.records_folder) == before
  assert messages == []


def test_make_stores_captions_of_training_rows(settings, records, save, counted):
  needs = base.needs("clip_text", "clip_image", model=save())
  make(settings, records, needs)
  before, num_train = counted["rows"], records.num_rows["train"]
  asked = dataclasses.replace(settings, captions=3, caption_drop=0.4)
  make(asked, records, needs)
  # The full prompts are not encoded again, and images have no captions.
  assert counted["rows"] == before + 2 * num_train
  columns = opening.open_columns(asked, needs)
  captions = opening.open_captions(asked, needs, columns)
  assert list(captions) == ["clip_text"]
  encoder = clip_columns.load(needs.specs[0].model, batch_size=1)
  for number, column in enumerate(captions["clip_text"], start=1):
    assert column.num_rows == {"train": num_train}
    texts = encoding.record_prompts(asked, records, "train", number)
    wanted = encoder.encode_text(["clip_text"], texts)["clip_text"]
    np.testing.assert_allclose(values(column, "train"), wanted, rtol=1e-3, atol=1e-3)
  before = counted["rows"]
  for change, num_made in (
    ({"captions": 2}, 0),
    ({"captions": 4}, 1),
    ({"captions": 4, "caption_drop": 0.1}, 3),
  ):
    changed = dataclasses.replace(asked, **change)
    make(changed, records, needs)
    before += num_made * num_train
    assert counted["rows"] == before, change
    captions = opening.open_captions(changed, needs, columns)["clip_text"]
    assert len(captions) == changed.captions - 1
  assert opening.open_captions(settings, needs, columns) == {}


@pytest.mark.parametrize("name", ["clip_text", "clip_image"])
def test_clip_columns_resume_after_an_interruption(
  settings, records, save, counted, monkeypatch, name
):
  monkeypatch.setattr(encoding, "BATCH", 2)
  monkeypatch.setattr(encoding, "ROWS_AT_RISK", 4)
  needs = base.needs(name, model=save())

  def stop(label: str, done: int, total: int) -> None:
    assert total == NUM_IMAGES
    if done >= 11:
      raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    make(settings, records, needs, stop)
  assert opened(settings, needs) == {name: None}
  first = counted["rows"]
  assert 11 <= first < 14
  make(settings, records, needs)
  # Whole batches of rows that a kill may cost.
  assert NUM_IMAGES <= counted["rows"] <= NUM_IMAGES + 4
  column = opened(settings, needs)[name]
  encoder = clip_columns.load(needs.specs[0].model, batch_size=1)
  if name == "clip_text":
    wanted = encoder.encode_text(
      [name], encoding.record_prompts(settings, records, "train")
    )
  else:
    wanted = encoder.encode_images([name], images(records, "train"))
  np.testing.assert_allclose(
    values(column, "train"), wanted[name], rtol=1e-3, atol=1e-3
  )


def test_clip_columns_of_other_settings_have_other_folders(settings, records, save):
  one = base.needs("clip_text", model=save())
  more = [
    base.needs("clip_text", model=one.specs[0].model, chunks=2),
    base.needs("clip_text", model=save("other", seed=1)),
  ]
  make(settings, records, one)
  before = times(folder_of(settings, one))
  for needs in more:
    make(settings, records, needs)
  assert times(folder_of(settings, one)) == before
  result = [opened(settings, needs)["clip_text"] for needs in (one, *more)]
  lengths = [column.description.shape[0] for column in result]
  assert lengths == [48, 96, 48]
  # The first window is the same prompt's, as far as it goes.
  np.testing.assert_allclose(
    values(result[0], "test")[:, :40], values(result[1], "test")[:, :40], atol=1e-2
  )
  assert np.abs(values(result[0], "test") - values(result[2], "test")).max() > 0.1
  assert len({column.description.encoder for column in result}) == 3


def test_clip_columns_follow_weights_and_not_file_times(
  settings, records, save, counted
):
  needs = base.needs("clip_image", model=save())
  make(settings, records, needs)
  (before,) = opened(settings, needs).values()
  old, kept = values(before, "train"), times(before.folder)
  for path in pathlib.Path(needs.specs[0].model).iterdir():
    os.utime(path, (1, 1))
  make(settings, records, needs)
  assert times(before.folder) == kept
  assert counted == {"loaded": 1, "rows": NUM_IMAGES}
  save(seed=1)
  make(settings, records, needs)
  (after,) = opened(settings, needs).values()
  assert after.description.encoder != before.description.encoder
  assert after.description.fingerprint != before.description.fingerprint
  assert np.abs(values(after, "train") - old).max() > 0.1
  encoder = clip_columns.load(needs.specs[0].model, batch_size=1)
  wanted = encoder.encode_images(["clip_image"], images(records, "train"))
  np.testing.assert_allclose(
    values(after, "train"), wanted["clip_image"], rtol=1e-3, atol=1e-3
  )


def test_clip_columns_of_text_are_remade_for_other_texts(
  settings, records, save, counted
):
  needs = base.needs("clip_text", "clip_image", model=save())
  make(settings, records, needs)
  assert counted["rows"] == 2 * NUM_IMAGES
  other = dataclasses.replace(settings, prompt_seed=1)
  make(other, records, needs)
  assert counted["rows"] == 3 * NUM_IMAGES
  prompts = encoding.record_prompts(other, records, "test")
  wanted = clip_columns.load(needs.specs[0].model, batch_size=1).encode_text(
    ["clip_text"], prompts
  )
  column = opened(settings, needs)["clip_text"]
  np.testing.assert_allclose(
    values(column, "test"), wanted["clip_text"], rtol=1e-3, atol=1e-3
  )


def test_clip_standin_is_trained_where_it_is_missing(
  with_standin, open_records, monkeypatch
):
  needs = base.needs("clip_image", model=conditioning.STANDIN)
  records = open_records(with_standin)
  kept = times(with_standin.standin_clip)
  make(with_standin, records, needs)
  (column,) = opened(with_standin, needs).values()
  assert column.description.encoder.startswith("stand-in CLIP")
  assert column.description.standin
  assert times(with_standin.standin_clip) == kept
  monkeypatch.setattr(clip_model, "load", lambda name: pytest.fail("loaded again"))
  make(with_standin, records, needs)


def test_clip_columns_refuse_a_missing_model(settings, records, tmp_path, save):
  needs = base.needs("clip_text", model=save("gone"))
  shutil.rmtree(tmp_path / "gone")
  for act in (
    lambda: base.needs("clip_text", model=str(tmp_path / "gone")),
    lambda: make(settings, records, needs),
  ):
    with pytest.raises(errors.InputError, match=f"{tmp_path}/gone"):
      act()
  assert not folder_of(settings, needs).exists()
