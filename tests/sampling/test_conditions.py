"""Conditions of images of the records, and of what a user gives."""

import dataclasses

import numpy as np
import pytest

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.conditioning import findings
from cxr_diffusion_jax.data import prompts
from cxr_diffusion_jax.sampling import conditions as conditions_lib
from cxr_diffusion_jax.sampling.request import Request
from tests.prompt_reader import findings_of


def _masks(builder: conditions_lib.ConditionBuilder, fields) -> list[np.ndarray]:
  """Masks [n k] of the streams that the path makes of these fields."""
  streams = builder.run.recipe.conditioner(fields)
  return [np.asarray(stream.mask) for stream in streams]


@pytest.mark.parametrize("path", ["findings", "elixr_c", "elixr_b", "elixr_bc"])
def test_conditions_are_spread_over_the_split(path, builder_of):
  builder = builder_of(path)
  ids = [str(name) for name in builder.run.dataset.ids("test")]
  result = builder.build(Request(split="test"), 3)
  assert result.names == [ids[0], ids[4], ids[9]]
  assert [entry["image_id"] for entry in result.entries] == result.names
  assert all(mask.any() for mask in _masks(builder, result.fields))
  source = builder.run.dataset.source("test")
  for row, place in enumerate((0, 4, 9)):
    grey = np.round((source.batch([place])["image"][0] + 1) * 127.5)
    np.testing.assert_array_equal(result.references[row], grey)
    for name, value in result.fields.items():
      np.testing.assert_array_equal(value[row], source.batch([place])[name][0])


def test_build_gives_the_source_of_several(builder_of):
  run = builder_of("findings").run
  with pytest.raises(errors.InputError, match="'nih'; expected none: this run has no"):
    builder_of("findings").build(Request(source="nih"), 1)
  path = findings.Conditioner(source_token=True, num_sources=2, shape=(14,))
  denoiser = dataclasses.replace(run.recipe.denoiser, conditioner=path)
  data = {**run.config["data"], "source": "nih+table", "root": "a,b"}
  several = dataclasses.replace(
    run,
    config={**run.config, "data": data},
    recipe=dataclasses.replace(run.recipe, denoiser=denoiser),
    data_root="a,b",
  )
  builder = conditions_lib.ConditionBuilder(run=several)
  result = builder.build(Request(source="table", age=40.0), 1)
  assert result.entries[0] == {"age": 40.0, "source": "table"}
  (stream,) = path(result.fields)
  assert np.flatnonzero(stream.mask[0]).tolist() == [16, 17]
  assert np.flatnonzero(stream.tokens[0, 17]).tolist() == [2 * 14 + 15 + 1]
  (stream,) = path(builder.build(Request(unconditional=True), 1).fields)
  assert not stream.mask.any()
  with pytest.raises(errors.InputError, match="'chexpert'; expected nih or table"):
    builder.build(Request(source="chexpert"), 1)


def test_build_gives_at_most_one_condition_per_image(builder_of):
  builder = builder_of("findings")
  result = builder.build(Request(split="test"), 99)
  assert result.names == [str(name) for name in builder.run.dataset.ids("test")]
  with pytest.raises(errors.InputError, match="split 'tset'"):
    builder.build(Request(split="tset"), 1)


@pytest.mark.parametrize("path", ["findings", "elixr_c"])
def test_build_finds_named_images_in_any_split(path, builder_of):
  builder = builder_of(path)
  test_id, train_id = (
    builder.run.dataset.ids("test")[3],
    builder.run.dataset.ids("train")[7],
  )
  result = builder.build(Request(image_ids=(str(test_id), f"{train_id}.png")), 1)
  assert result.names == [test_id, train_id]
  row = builder.run.dataset.source("train").batch([7])
  for name, value in result.fields.items():
    np.testing.assert_array_equal(value[1], row[name][0])
  with pytest.raises(errors.InputError, match="images nobody"):
    builder.build(Request(image_ids=("nobody",)), 1)


def test_build_gives_findings_as_labels(builder_of):
  builder = builder_of("findings")
  request = Request(
    findings=("effusion, Cardiomegaly", "No Finding"), age=63.0, sex="F", view="AP"
  )
  result = builder.build(request, 1)
  expected = np.zeros((2, 14))
  expected[0, [1, 4]] = 1
  np.testing.assert_array_equal(result.fields["findings"], expected)
  np.testing.assert_array_equal(result.fields["age"], [63, 63])
  np.testing.assert_array_equal(result.fields["sex"], [0, 0])
  np.testing.assert_array_equal(result.fields["view"], [1, 1])
  assert result.names == ["Cardiomegaly_Effusion", "No-Finding"]
  assert result.entries[1] == {"findings": (), "age": 63.0, "sex": "F", "view": "AP"}
  assert _masks(builder, result.fields)[0].all()


def test_build_leaves_other_fields_unknown(builder_of):
  builder = builder_of("findings")
  (mask,) = _masks(builder, builder.build(Request(age=40.0), 1).fields)
  assert mask[0].tolist() == [False] * 16 + [True]
  (mask,) = _masks(builder, builder.build(Request(findings=("Mass",)), 1).fields)
  assert mask[0].tolist() == [True] * 14 + [False] * 3
  request = Request(findings=("Mass,Nodule=?", "=?"))
  result = builder.build(request, 1)
  (mask,) = _masks(builder, result.fields)
  assert mask.sum(axis=1).tolist() == [13, 0]
  assert result.entries == [{"findings": ("Mass",)}, {}]
  (mask,) = _masks(builder, builder.build(Request(view="PA"), 1).fields)
  assert mask[0].tolist() == [False] * 14 + [True, False, False]


@pytest.mark.parametrize("path", ["findings", "elixr_c", "elixr_b", "elixr_bc"])
def test_build_of_an_unconditional_request_has_no_token(path, builder_of):
  builder = builder_of(path)
  result = builder.build(Request(unconditional=True), 9)
  assert len(result) == 1
  assert result.entries == [{"unconditional": True}]
  assert result.references is None
  for mask in _masks(builder, result.fields):
    assert mask.shape[0] == 1
    assert not mask.any()
  # As those of images, so that both can be walked between.
  of_images = builder.build(Request(), 1).fields
  shapes = {name: value.shape for name, value in result.fields.items()}
  assert shapes == {name: value.shape for name, value in of_images.items()}


@pytest.mark.parametrize("path", ["elixr_b", "elixr_bc"])
def test_build_encodes_prompts_and_leaves_the_image_blank(path, builder_of, encoder):
  builder = builder_of(path)
  result = builder.build(Request(prompts=("a mass", "edema")), 9)
  expected = np.stack([encoder.value("a mass"), encoder.value("edema")])
  np.testing.assert_array_equal(result.fields["contrastive_txt_emb"], expected)
  assert result.entries == [{"prompt": "a mass"}, {"prompt": "edema"}]
  text, *image = _masks(builder, result.fields)
  assert text.all()
  assert not any(mask.any() for mask in image)
  assert result.negative is None


def test_build_writes_partial_prompts_for_runs_that_learned_from_them(
  builder_of, encoder
):
  run = builder_of("elixr_b").run
  columns = {
    name: dataclasses.replace(column, captions=4)
    for name, column in run.card.columns.items()
  }
  card = dataclasses.replace(run.card, columns=columns)
  builder = conditions_lib.ConditionBuilder(run=dataclasses.replace(run, card=card))
  result = builder.build(Request(age=63.0, sex="F"), 1)
  (entry,) = result.entries
  assert "63 year old" in entry["prompt"]
  assert findings_of(entry["prompt"]) == ()
  assert not any(words in entry["prompt"] for words in prompts.phrasings()["none"])
  assert "findings" not in entry
  wanted = encoder.value(entry["prompt"])[None]
  np.testing.assert_array_equal(result.fields["contrastive_txt_emb"], wanted)
  with pytest.raises(errors.InputError, match="without findings"):
    builder.build(Request(prompts=("a",), view="PA"), 1)


def test_build_turns_findings_into_a_sentence(builder_of, encoder):
  builder = builder_of("elixr_b")
  request = Request(
    findings=("Mass,Effusion", "No Finding"), prompts=("a",), age=63.0, sex="F"
  )
  result = builder.build(request, 1)
  texts = [entry["prompt"] for entry in result.entries]
  assert texts[0] == "a"
  assert findings_of(texts[1]) == ("Effusion", "Mass")
  assert findings_of(texts[2]) == ()
  assert all("63 year old" in text for text in texts[1:])
  assert [entry.get("findings") for entry in result.entries] == [
    None,
    ("Effusion", "Mass"),
    (),
  ]
  values = np.stack([encoder.value(text) for text in texts])
  np.testing.assert_array_equal(result.fields["contrastive_txt_emb"], values)


def test_build_of_a_sentence_refuses_findings_that_state_nothing(builder_of):
  builder = builder_of("elixr_b")
  with pytest.raises(errors.InputError, match="findings of which nothing is known"):
    builder.build(Request(findings=("Mass=?",)), 1)


def test_build_gives_one_row_for_a_negative_prompt(builder_of, encoder):
  builder = builder_of("elixr_bc")
  result = builder.build(Request(prompts=("a", "b"), negative_prompt="pacemaker"), 1)
  np.testing.assert_array_equal(
    result.negative["contrastive_txt_emb"], encoder.value("pacemaker")[None]
  )
  assert not result.negative["elixrc"].any()
  assert [entry["negative_prompt"] for entry in result.entries] == ["pacemaker"] * 2
  of_split = builder.build(Request(negative_prompt="pacemaker"), 3)
  assert of_split.negative["contrastive_txt_emb"].shape == (1, 128)
  assert len(of_split) == 3


@pytest.mark.parametrize("whole", [False, True])
def test_build_resizes_references_for_the_encoder(
  whole, builder_of, encoder, xray, monkeypatch
):
  encoder = dataclasses.replace(encoder, whole_images=whole)
  monkeypatch.setattr(conditions_lib.encoders, "open_encoder", lambda *_, **__: encoder)
  builder = builder_of("elixr_c")
  result = builder.build(Request(references=(xray("a.png", 50), xray("b.png", 90))), 1)
  assert encoder.seen == [(40, 60) if whole else (32, 32)] * 2
  assert result.references.shape == (2, 32, 32, 1)
  np.testing.assert_allclose(result.fields["elixrc"][:, 0, 0, 0], [50, 90], atol=1)
  assert result.names == ["a", "b"]


def test_build_distinguishes_references_of_one_name(builder_of, encoder, xray):
  paths = (xray("one/x.png", 50), xray("two/x.png", 90))
  result = builder_of("elixr_c").build(Request(references=paths), 1)
  assert result.names == ["x", "x-2"]
  assert [entry["reference"] for entry in result.entries] == list(paths)


@pytest.mark.parametrize(("m", "n"), [(1, 3), (3, 1), (2, 2)])
def test_build_joins_texts_and_references(m, n, builder_of, encoder, xray):
  builder = builder_of("elixr_bc")
  paths = tuple(xray(f"{i}.png", 50 + 10 * i) for i in range(n))
  texts = tuple(f"text {i}" for i in range(m))
  result = builder.build(Request(prompts=texts, references=paths), 1)
  rows = range(max(m, n))
  assert len(result) == max(m, n)
  for row in rows:
    np.testing.assert_array_equal(
      result.fields["contrastive_txt_emb"][row], encoder.value(texts[row % m])
    )
    np.testing.assert_allclose(
      result.fields["elixrc"][row, 0, 0, 0], 50 + 10 * (row % n), atol=1
    )
    assert result.entries[row] == {
      "prompt": texts[row % m],
      "reference": paths[row % n],
    }
  assert all(mask.all() for mask in _masks(builder, result.fields))


def test_build_joins_a_text_and_a_stored_image(builder_of, encoder):
  builder = builder_of("elixr_bc")
  image_id = str(builder.run.dataset.ids("test")[2])
  result = builder.build(Request(image_ids=(image_id,), prompts=("a", "b")), 1)
  stored = builder.run.dataset.source("test").batch([2])
  np.testing.assert_array_equal(
    result.fields["elixrc"], np.repeat(stored["elixrc"], 2, axis=0)
  )
  np.testing.assert_array_equal(
    result.fields["contrastive_txt_emb"],
    np.stack([encoder.value("a"), encoder.value("b")]),
  )
  assert result.names == [f"{image_id}_a", f"{image_id}_b"]
  assert result.references.shape == (2, 32, 32, 1)


def test_build_takes_references_of_the_same_patient(builder_of):
  builder = builder_of("elixr_c", conditioning__reference="same_patient")
  ids = [str(name) for name in builder.run.dataset.ids("test")]
  patients = [name.split("_")[0] for name in ids]
  paired = [name for name in ids if patients.count(name.split("_")[0]) > 1]
  result = builder.build(Request(split="test"), 99)
  assert result.names == paired
  assert 0 < len(paired) < len(ids)
  for entry in result.entries:
    assert entry["reference_id"] != entry["image_id"]
    assert entry["reference_id"].split("_")[0] == entry["image_id"].split("_")[0]
  own = builder_of("elixr_c").build(
    Request(image_ids=tuple(entry["reference_id"] for entry in result.entries)), 1
  )
  np.testing.assert_array_equal(result.fields["elixrc"], own.fields["elixrc"])
  np.testing.assert_array_equal(result.references, own.references)
  alone = next(name for name in ids if name not in paired)
  with pytest.raises(errors.InputError, match=f"{alone}, whose patient has no other"):
    builder.build(Request(image_ids=(paired[0], alone)), 1)
  with pytest.raises(errors.InputError, match="where no patient has two images"):
    builder.build(Request(split="validation"), 1)


def test_build_takes_references_of_the_same_findings(builder_of):
  builder = builder_of("elixr_c", conditioning__reference="same_findings")
  source = builder.run.dataset.source("train")
  records = builder.run.dataset.records
  fields, row = records.fields("train"), source.row
  assert source.num_left_out == records.num_rows["train"] - len(source) > 0
  for name in ("findings", "sex", "view"):
    np.testing.assert_array_equal(fields[name][source.reference_row], fields[name][row])
  assert (fields["patient"][source.reference_row] != fields["patient"][row]).all()
  batch = builder.build(Request(split="train"), 4)
  assert all(one["reference_id"] != one["image_id"] for one in batch.entries)
  assert batch.references.shape == (4, 32, 32, 1)


def test_between_reads_a_text_as_the_path_does(builder_of, xray):
  picture = xray("00000099_000.png", 50)
  for path in ("findings", "elixr_c", "elixr_b", "elixr_bc"):
    builder = builder_of(path)
    image_id = str(builder.run.dataset.ids("train")[5])
    assert builder.guess(f"{image_id}.png") == Request(image_ids=(f"{image_id}.png",))
  assert builder_of("elixr_c").guess(picture) == Request(references=(picture,))
  assert builder_of("elixr_bc").guess(picture) == Request(references=(picture,))
  assert builder_of("elixr_bc").guess("a mass") == Request(prompts=("a mass",))
  assert builder_of("findings").guess("Mass") == Request(findings=("Mass",))
  assert builder_of("elixr_c").guess("nobody") == Request(image_ids=("nobody",))


def test_between_makes_two_conditions_of_two_texts(builder_of, encoder, xray):
  builder = builder_of("elixr_bc")
  picture = xray("a.png", 50)
  result = builder.between(["a mass", picture], "pacemaker")
  text, image = _masks(builder, result.fields)
  assert text.any(axis=1).tolist() == [True, False]
  assert image.any(axis=1).tolist() == [False, True]
  assert [entry["negative_prompt"] for entry in result.entries] == ["pacemaker"] * 2
  assert result.negative["contrastive_txt_emb"].shape == (1, 128)
