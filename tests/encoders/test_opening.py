"""The encoder opened for a user's input is the one that made the column, or none is."""

import dataclasses
import pathlib
import shutil

import jax
import numpy as np
import pytest

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.encoders import base, encoding
from cxr_diffusion_jax.encoders import opening as encoders
from cxr_diffusion_jax.encoders.columns import clip as clip_columns
from cxr_diffusion_jax.encoders.elixr import embed as elixr_embed
from cxr_diffusion_jax.encoders.elixr import model as elixr_model
from cxr_diffusion_jax.run import dataset
from cxr_diffusion_jax.run import run as run_lib
from cxr_diffusion_jax.sampling import conditions
from cxr_diffusion_jax.sampling.request import Request
from cxr_diffusion_jax.training import experiment as experiment_lib
from tests.fixtures.elixr_files import write_elixr
from tests.fixtures.runs import make_run, save_run

pytestmark = pytest.mark.usefixtures("one_by_one")

KIND = "contrastive_img_emb"


def open_encoder(
  settings, result: dataset.Dataset, name: str, location: str = ""
) -> base.Encoder:
  """Opens the encoder of a column, stand-ins from the records."""
  specs = {spec.name: spec for spec in result.needs.at(location).specs}
  columns = {column.description.name: column.description for column in result.columns}
  folders = [settings.standin_clip]
  return encoders.open_encoder(specs[name], columns[name], folders)


def assert_makes_the_columns(
  settings, result: dataset.Dataset, opened: dict[str, base.Encoder]
) -> None:
  """Each column's encoder gives what the column has, of one image and its prompt."""
  source, row = result.source("test"), 2
  prompt = encoding.record_prompts(settings, result.records, "test")[source.row[row]]
  stored = source[row]
  for name, encoder in opened.items():
    if name in result.needs.text_columns:
      given = encoder.encode_text([name], [prompt])
    else:
      given = encoder.encode_images([name], [stored["image"][..., 0]])
    np.testing.assert_allclose(
      given[name][0], stored[name], rtol=2e-3, atol=2e-3, err_msg=name
    )
    other = source[row + 1][name]
    assert np.abs(given[name][0] - other).max() > 0.01, name


def test_open_encoder_of_clip_reproduces_its_columns(settings, make_clip):
  clip = str(make_clip("clip", ["pleural effusion of a patient"]))
  names = ("clip_text", "clip_patches", "clip_image")
  result = dataset.prepare(settings, base.needs(*names, model=clip, chunks=2))
  opened = {name: open_encoder(settings, result, name) for name in names}
  assert all(encoder.chunks == 2 for encoder in opened.values())
  assert_makes_the_columns(settings, result, opened)


def test_open_encoder_of_standins_reproduces_their_columns(with_standin):
  names = ("elixrc", "txt_emb", "contrastive_txt_emb", KIND)
  result = dataset.prepare(with_standin, base.needs(*names))
  opened = {name: open_encoder(with_standin, result, name) for name in names}
  assert all(encoder.standin for encoder in opened.values())
  assert_makes_the_columns(with_standin, result, opened)


def test_open_encoder_refuses_another_clip(settings, make_clip):
  clip = str(make_clip("clip", ["effusion"]))
  result = dataset.prepare(settings, base.needs("clip_image", model=clip))
  old = result.columns[0].description.encoder
  make_clip("clip", ["effusion"], seed=1)
  new = clip_columns.load(clip).description
  assert new != old
  with pytest.raises(errors.InputError) as refused:
    open_encoder(settings, result, "clip_image")
  assert f"the encoder is {new}; expected {old}" in str(refused.value)


@pytest.mark.parametrize("remote", [False, True])
def test_export_keeps_the_stand_in_with_the_run(with_standin, tmp_path, bucket, remote):
  result = dataset.prepare(with_standin, base.needs(KIND))
  workdir = f"{bucket}/run" if remote else tmp_path / "run"
  encoders.export(with_standin, result.columns, workdir)
  row = result.source("test")[0]
  shutil.rmtree(with_standin.records_dir)
  shutil.rmtree(with_standin.root)
  (spec,), (column,) = result.needs.specs, result.columns
  folders = [
    with_standin.standin_clip,
    f"{workdir}/{encoders.STANDIN_CLIP}",
  ]
  opened = encoders.open_encoder(spec, column.description, folders)
  values = opened.encode_images([KIND], [row["image"][..., 0]])
  np.testing.assert_allclose(values[KIND][0], row[KIND], rtol=2e-3, atol=2e-3)


def test_export_copies_nothing_without_a_stand_in(settings, tmp_path, make_clip):
  clip = str(make_clip("clip", ["effusion"]))
  result = dataset.prepare(settings, base.needs("clip_image", model=clip))
  encoders.export(settings, result.columns, tmp_path / "run")
  assert not (tmp_path / "run").exists()


def test_open_encoder_refuses_a_missing_or_other_standin(with_standin, make_clip):
  result = dataset.prepare(with_standin, base.needs(KIND))
  old = result.columns[0].description.encoder
  shutil.rmtree(with_standin.standin_clip)
  with pytest.raises(errors.InputError, match=rf"made {KIND} \({old}\) is not in"):
    open_encoder(with_standin, result, KIND)
  make_clip("other", ["effusion"]).rename(with_standin.standin_clip)
  with pytest.raises(errors.InputError, match=f"expected {old}, which made the column"):
    open_encoder(with_standin, result, KIND)


def test_open_encoder_refuses_a_missing_clip(settings, make_clip):
  clip = make_clip("clip", ["effusion"])
  result = dataset.prepare(settings, base.needs("clip_image", model=str(clip)))
  shutil.rmtree(clip)
  with pytest.raises(errors.InputError, match=str(clip)):
    open_encoder(settings, result, "clip_image")


def test_open_encoder_checks_elixr_models_against_the_column(
  settings, elixr_models, tmp_path
):
  needs = base.needs(KIND)
  models = elixr_model.load(elixr_models)
  elixr_embed.embed_named(settings, [KIND], needs, models)
  result = dataset.prepare(settings, needs)
  opened = open_encoder(settings, result, KIND, location=str(elixr_models))
  assert opened.whole_images
  assert_makes_the_columns(settings, result, {KIND: opened})
  copy = pathlib.Path(shutil.copytree(elixr_models, tmp_path / "copy"))
  program = copy / "elixr-c-v2-pooled" / "saved_model.pb"
  program.write_bytes(program.read_bytes() + b"\n")
  with pytest.raises(errors.InputError, match="the encoder is google/cxr-foundation"):
    open_encoder(settings, result, KIND, location=str(copy))


def test_open_encoder_accepts_files_that_name_no_model(
  settings, open_records, elixr_models
):
  records = open_records(settings)
  ids = np.concatenate([records.ids(split) for split in records.num_rows])
  values = np.ones((len(ids), 128), np.float32)
  encoder = f"{base.NAMELESS} A"
  write_elixr(settings.root, KIND, ids, values, encoder=encoder, standin=False)
  result = dataset.prepare(settings, base.needs(KIND))
  opened = open_encoder(settings, result, KIND, location=str(elixr_models))
  assert not opened.standin


@pytest.fixture
def moved(small, settings, make_clip, tmp_path) -> dict[str, pathlib.Path]:
  """A run of CLIP's text, the new place of its CLIP, and another CLIP."""
  clip = make_clip("clip", ["pleural effusion of a patient"])
  places = {"root": settings.root, "records_dir": settings.records_dir}
  own = dataclasses.replace(small, **places, path="clip_text")
  experiment = experiment_lib.build(own.config(conditioning__encoder=str(clip)))
  prepared = dataset.prepare(experiment.data, experiment.recipe.conditioner.needs)
  params = experiment.recipe.init_fn(jax.random.key(0))
  run = make_run(experiment, prepared, tmp_path / "run", ema_params=params)
  return {
    "run": save_run(run, tmp_path / "run"),
    "clip": clip.rename(tmp_path / "moved"),
    "other": make_clip("other", ["effusion"], seed=1),
  }


def test_open_run_takes_the_encoder_elsewhere(moved):
  gone = conditions.ConditionBuilder(run=run_lib.open_run(moved["run"]))
  prompt = Request(prompts=("an effusion",))
  with pytest.raises(errors.InputError, match="no CLIP in"):
    gone.build(prompt, 1)
  run = run_lib.open_run(moved["run"], encoder=str(moved["clip"]))
  fields = conditions.ConditionBuilder(run=run).build(prompt, 1).fields
  assert fields["clip_text"].any()
  assert len(run.dataset.ids("test"))


def test_open_run_refuses_another_encoder(moved, settings):
  run = run_lib.open_run(moved["run"], encoder=str(moved["other"]))
  with pytest.raises(errors.InputError, match="which made the column clip_text"):
    conditions.ConditionBuilder(run=run).build(Request(prompts=("an effusion",)), 1)
  (column,) = settings.records_folder.glob("clip-*/columns/clip_text")
  before = sorted(path.stat().st_mtime_ns for path in column.iterdir())
  with pytest.raises(errors.InputError, match="which made the column clip_text"):
    _ = run.dataset
  # The column of the right encoder is still there.
  assert sorted(path.stat().st_mtime_ns for path in column.iterdir()) == before
  right = run_lib.open_run(moved["run"], encoder=str(moved["clip"]))
  assert len(right.dataset.ids("test"))


@pytest.mark.parametrize("command", ["sample", "evaluate", "compare"])
def test_opening_refuses_another_encoder_in_commands(
  moved, command, run_main, tmp_path
):
  workdir = "workdirs" if command == "compare" else "workdir"
  arguments = [f"--{workdir}={moved['run']}", f"--out={tmp_path / 'out'}"]
  if command == "sample":
    arguments.append("--prompt=an effusion")
  ended = run_main(command, *arguments, f"--encoder={moved['other']}")
  assert "which made the column clip_text" in ended.complaint
  assert "--encoder" in ended.complaint
