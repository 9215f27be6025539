"""A dataset joins records and columns, of each image or of its patient's other one."""

import dataclasses
import json

import numpy as np
import pytest

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.conditioning import base as conditioning
from cxr_diffusion_jax.conditioning import clip_text
from cxr_diffusion_jax.encoders import base, encoding
from cxr_diffusion_jax.encoders.columns import clip as clip_columns
from cxr_diffusion_jax.run import card as card_lib
from cxr_diffusion_jax.run import dataset, null_context

pytestmark = pytest.mark.usefixtures("one_by_one")


@pytest.fixture
def needs(make_clip) -> conditioning.Needs:
  clip = str(make_clip("clip", ["pleural effusion of a patient"]))
  return base.needs("clip_text", "clip_image", model=clip, reference="same_patient")


def test_prepare_refuses_a_host_without_records(settings, tmp_path, monkeypatch):
  other = dataclasses.replace(settings, records_dir=str(tmp_path / "own disk"))
  monkeypatch.setattr(dataset.jax, "process_index", lambda: 1)
  with pytest.raises(errors.InputError, match="process 1 sees no records"):
    dataset.prepare(other, conditioning.Needs())


def test_prepare_takes_references_of_the_patient_and_own_text(settings, needs):
  result = dataset.prepare(settings, needs)
  encoder = clip_columns.load(needs.specs[0].model, batch_size=1)
  num_with = 0
  for split in result.splits:
    source = result.source(split)
    fields = result.records.fields(split)
    prompts = encoding.record_prompts(settings, result.records, split)
    wanted = encoder.encode_text(["clip_text"], prompts)["clip_text"]
    for index in range(len(source)):
      row, other = int(source.row[index]), int(source.reference_row[index])
      record = source[index]
      np.testing.assert_allclose(record["clip_text"], wanted[row], rtol=2e-3, atol=2e-3)
      of_patient = np.flatnonzero(fields["patient"] == fields["patient"][row])
      assert (other in of_patient) == (len(of_patient) > 1)
      assert other != row
      reference = source.reference_image(index)
      if other < 0:
        assert (record["clip_image"] == 0).all()
        assert not conditioning.stream(record["clip_image"][None]).mask.any()
        assert (reference == 0).all()
        continue
      num_with += 1
      np.testing.assert_array_equal(reference, source[other]["image"])
      assert (reference != record["image"]).any()
      seen = encoder.encode_images(["clip_image"], [reference[..., 0]])["clip_image"]
      np.testing.assert_allclose(record["clip_image"], seen[0], rtol=2e-3, atol=2e-3)
  assert 0 < num_with < sum(result.records.num_rows.values())


def test_prepare_keeps_the_states_of_the_empty_prompt(settings, make_clip, monkeypatch):
  clip = str(make_clip("clip", ["pleural effusion of a patient"]))
  path = clip_text.Conditioner(encoder=clip, all_states=True, shape=(48, 16))
  card = dataset.prepare(settings, path.needs).card
  text = json.dumps(card.to_json())
  card = card_lib.from_json(json.loads(text), {"data": {"image_size": 32}})
  states = null_context.bind(path, card.statistics).states
  (wanted,) = clip_columns.load(clip).encode_text(["clip_states"], [""])["clip_states"]
  np.testing.assert_allclose(states, wanted, rtol=2e-3, atol=2e-3)
  # Nothing is loaded or encoded again.
  monkeypatch.setattr(clip_columns, "load", None)
  assert dataset.prepare(settings, path.needs).card.statistics == card.statistics


def test_prepare_shares_columns_between_references(settings, needs, monkeypatch):
  other = dataset.prepare(settings, needs)
  monkeypatch.setattr(clip_columns, "load", lambda *_, **__: pytest.fail("again"))
  own = dataset.prepare(settings, dataclasses.replace(needs, reference="self"))
  assert own.card == other.card
  source, swapped = own.source("train"), other.source("train")
  np.testing.assert_array_equal(source.reference_row, source.row)
  for index, row in enumerate(swapped.reference_row):
    np.testing.assert_array_equal(source.reference_image(index), source[index]["image"])
    if row >= 0:
      np.testing.assert_array_equal(
        swapped[index]["clip_image"], source[int(row)]["clip_image"]
      )


def test_references_need_an_image_column(settings, needs):
  text = dataclasses.replace(needs, specs=needs.specs[:1])
  source = dataset.prepare(settings, text).source("train")
  np.testing.assert_array_equal(source.reference_row, source.row)


def test_images_are_found_by_name_in_any_split(settings):
  result = dataset.prepare(settings, base.needs())
  names = [str(result.records.ids(split)[-1]) for split in result.splits]
  actual = result.find([f"{name}.png" for name in names])
  for (source, place), split, name in zip(actual, result.splits, names, strict=True):
    assert source.split == split
    assert result.ids(split)[place] == name
  with pytest.raises(errors.InputError, match="images 00099999_000"):
    result.find([names[0], "00099999_000.png"])


def test_dataset_describes_itself(settings, needs):
  result = dataset.prepare(settings, needs)
  assert result.kind == "real images, stand-in clip_text, stand-in clip_image"
  assert not result.phantom
  card = result.card
  assert card.num_rows == {"train": 15, "validation": 3, "test": 5, "expert": 1}
  column, about = card.columns["clip_image"], result.columns[1].description
  assert column.encoder == clip_columns.load(needs.specs[0].model).description
  assert column.standin
  assert column.fingerprint == about.fingerprint
  assert column.shape == about.shape
  assert result.summary().startswith(f"{result.kind}; train 15, validation 3, test 5, ")


def test_prepare_reports_an_empty_split(settings):
  nothing = dataclasses.replace(settings, validation_fraction=0.0)
  result = dataset.prepare(nothing, base.needs())
  assert result.splits == ("train", "test", "expert")
  with pytest.raises(errors.InputError, match="split 'validation' without a row"):
    result.source("validation")
