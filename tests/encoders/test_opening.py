"""The encoder opened for a user's input is the one that made the column, or none is."""

import pathlib
import shutil

import numpy as np
import pytest

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.encoders import base
from cxr_diffusion_jax.encoders import opening as encoders
from cxr_diffusion_jax.encoders.clip import encoder as clip_encoder
from cxr_diffusion_jax.encoders.clip import record_prompts
from cxr_diffusion_jax.encoders.elixr import columns as elixr_columns
from cxr_diffusion_jax.encoders.elixr import model as elixr_model
from cxr_diffusion_jax.encoders.elixr.files import writer as elixr_writer
from cxr_diffusion_jax.run import dataset

pytestmark = pytest.mark.usefixtures("one_by_one")

KIND = "contrastive_img_emb"


def open_encoder(settings, made: dataset.Dataset, name: str, **options) -> base.Encoder:
  """Opens the encoder of a column, stand-ins from the records."""
  specs = {spec.name: spec for spec in made.needs.specs}
  columns = {column.description.name: column.description for column in made.columns}
  folders = [settings.standin_clip]
  return encoders.open_encoder(specs[name], columns[name], folders, **options)


def assert_makes_the_columns(
  settings, made: dataset.Dataset, opened: dict[str, base.Encoder]
) -> None:
  """Each column's encoder gives what the column has, of one image and its prompt."""
  source, row = made.source("test"), 2
  prompt = record_prompts.of_split(settings, made.records, "test")[source.row[row]]
  stored = source[row]
  for name, encoder in opened.items():
    if name in made.needs.text_columns:
      given = encoder.encode_text([name], [prompt])
    else:
      given = encoder.encode_images([name], [stored["image"][..., 0]])
    np.testing.assert_allclose(
      given[name][0], stored[name], rtol=2e-3, atol=2e-3, err_msg=name
    )
    other = source[row + 1][name]
    assert np.abs(given[name][0] - other).max() > 0.01, name


def test_a_clip_gives_what_its_columns_have(settings, make_clip):
  clip = str(make_clip("clip", ["pleural effusion of a patient"]))
  names = ("clip_text", "clip_patches", "clip_image")
  made = dataset.prepare(settings, base.needs(*names, model=clip, chunks=2))
  opened = {name: open_encoder(settings, made, name) for name in names}
  assert all(encoder.chunks == 2 for encoder in opened.values())
  assert_makes_the_columns(settings, made, opened)


def test_stand_ins_give_what_their_columns_have(with_standin):
  names = ("elixrc", "txt_emb", "contrastive_txt_emb", KIND)
  made = dataset.prepare(with_standin, base.needs(*names))
  opened = {name: open_encoder(with_standin, made, name) for name in names}
  assert all(encoder.standin for encoder in opened.values())
  assert_makes_the_columns(with_standin, made, opened)


def test_another_clip_is_refused_and_both_are_named(settings, make_clip):
  clip = str(make_clip("clip", ["effusion"]))
  made = dataset.prepare(settings, base.needs("clip_image", model=clip))
  old = made.columns[0].description.encoder
  make_clip("clip", ["effusion"], seed=1)
  new = clip_encoder.load(clip).description
  assert new != old
  with pytest.raises(errors.InputError) as refused:
    open_encoder(settings, made, "clip_image")
  assert f"the encoder is {new}; expected {old}" in str(refused.value)


@pytest.mark.parametrize("remote", [False, True])
def test_export_keeps_the_stand_in_with_the_run(with_standin, tmp_path, bucket, remote):
  made = dataset.prepare(with_standin, base.needs(KIND))
  workdir = f"{bucket}/run" if remote else tmp_path / "run"
  encoders.export(with_standin, made.columns, workdir)
  row = made.source("test")[0]
  shutil.rmtree(with_standin.records_dir)
  shutil.rmtree(with_standin.root)
  (spec,), (column,) = made.needs.specs, made.columns
  folders = [
    with_standin.standin_clip,
    f"{workdir}/{encoders.STANDIN_CLIP}",
  ]
  opened = encoders.open_encoder(spec, column.description, folders)
  values = opened.encode_images([KIND], [row["image"][..., 0]])
  np.testing.assert_allclose(values[KIND][0], row[KIND], rtol=2e-3, atol=2e-3)


def test_export_copies_nothing_without_a_stand_in(settings, tmp_path, make_clip):
  clip = str(make_clip("clip", ["effusion"]))
  made = dataset.prepare(settings, base.needs("clip_image", model=clip))
  encoders.export(settings, made.columns, tmp_path / "run")
  assert not (tmp_path / "run").exists()


def test_a_stand_in_that_is_gone_or_another_is_refused(with_standin, make_clip):
  made = dataset.prepare(with_standin, base.needs(KIND))
  old = made.columns[0].description.encoder
  shutil.rmtree(with_standin.standin_clip)
  with pytest.raises(errors.InputError, match=rf"made {KIND} \({old}\) is not in"):
    open_encoder(with_standin, made, KIND)
  make_clip("other", ["effusion"]).rename(with_standin.standin_clip)
  with pytest.raises(errors.InputError, match=f"expected {old}, which made the column"):
    open_encoder(with_standin, made, KIND)


def test_a_clip_that_is_gone_is_refused(settings, make_clip):
  clip = make_clip("clip", ["effusion"])
  made = dataset.prepare(settings, base.needs("clip_image", model=str(clip)))
  shutil.rmtree(clip)
  with pytest.raises(errors.InputError, match=str(clip)):
    open_encoder(settings, made, "clip_image")


def test_elixr_models_are_held_to_the_column(settings, elixr_models, tmp_path):
  needs = base.needs(KIND)
  models = elixr_model.load(elixr_models)
  elixr_columns.embed(settings, [KIND], needs, models)
  made = dataset.prepare(settings, needs)
  opened = open_encoder(settings, made, KIND, location=str(elixr_models))
  assert opened.whole_images
  assert_makes_the_columns(settings, made, {KIND: opened})
  copy = pathlib.Path(shutil.copytree(elixr_models, tmp_path / "copy"))
  program = copy / "elixr-c-v2-pooled" / "saved_model.pb"
  program.write_bytes(program.read_bytes() + b"\n")
  with pytest.raises(errors.InputError, match="the encoder is google/cxr-foundation"):
    open_encoder(settings, made, KIND, location=str(copy))


def test_files_that_name_no_model_are_taken_at_their_word(
  settings, open_records, elixr_models
):
  records = open_records(settings)
  ids = np.concatenate([records.ids(split) for split in records.num_rows])
  elixr_writer.write_form_a(
    settings.root, kinds=[KIND], num_rows=len(ids), standin=False,
    batches=[(ids, {KIND: np.ones((len(ids), 128), np.float32)})],
    encoder=f"{base.NAMELESS} A",
  )  # fmt: skip
  made = dataset.prepare(settings, base.needs(KIND))
  opened = open_encoder(settings, made, KIND, location=str(elixr_models))
  assert not opened.standin
