"""Columns of ELIXR: real embeddings go first, stand-ins come only where asked for."""

import dataclasses
import pathlib

import numpy as np
import pytest

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.data import captions, images
from cxr_diffusion_jax.data.columns import column as columns_lib
from cxr_diffusion_jax.data.records import records as records_lib
from cxr_diffusion_jax.data.sources.nih import layout
from cxr_diffusion_jax.encoders import base, encoding
from cxr_diffusion_jax.encoders.clip import model as clip_model
from cxr_diffusion_jax.encoders.elixr import embed as elixr_embed
from cxr_diffusion_jax.encoders.elixr import model as elixr_model
from cxr_diffusion_jax.encoders.elixr.files import reader as elixr
from cxr_diffusion_jax.encoders.standin import elixr as standin_elixr
from cxr_diffusion_jax.encoders.standin import training as standin
from cxr_diffusion_jax.run import dataset
from tests.fixtures.elixr_files import write_elixr

KIND = "contrastive_img_emb"
NEEDS = base.needs(KIND)


def write_real(root: str, ids: list[str], value: float = 1.0) -> None:
  """Writes embeddings of form A that no stand-in made, all of one number."""
  result = np.full((len(ids), 128), value, np.float32)
  write_elixr(root, KIND, ids, result, encoder="the real one", standin=False)


def all_ids(records: records_lib.Records) -> list[str]:
  return np.concatenate([records.ids(split) for split in records.num_rows]).tolist()


def values(column: columns_lib.Column, split: str) -> np.ndarray:
  return np.stack(list(column.source(split)))


def times(folder: pathlib.Path) -> dict[pathlib.Path, int]:
  files = [path for path in folder.rglob("*") if path.is_file()]
  return {path: path.stat().st_mtime_ns for path in files}


def test_elixr_columns_refuse_a_tree_without_embeddings(settings, run_main, repository):
  with pytest.raises(errors.InputError, match=f"no {KIND} embeddings in") as refused:
    dataset.prepare(settings, NEEDS)
  for command in ("prepare", "--download elixr", "--embed elixr", "--standin"):
    assert command in str(refused.value)
  ended = run_main(
    "prepare",
    f"--config={repository}/configs/elixr_c.py:tiny",
    f"--config.data.root={settings.root}",
    f"--config.data.records_dir={settings.records_dir}",
    "--config.data.image_size=32",
  )
  assert "--download elixr" in ended.complaint
  # What it names can be typed.
  flags = repository / "cxr_diffusion_jax" / "cli" / "prepare_flags.py"
  source = flags.read_text("utf-8")
  for flag in ("download", "embed", "standin"):
    assert f'"{flag}",' in source


def test_elixr_standins_are_made_on_request(with_standin, monkeypatch):
  needs = base.needs("elixrc", "txt_emb", KIND)
  result = dataset.prepare(with_standin, needs)
  assert (
    result.kind == f"real images, stand-in elixrc, stand-in txt_emb, stand-in {KIND}"
  )
  encoder = standin_elixr.StandinEncoder(
    model=clip_model.load(with_standin.standin_clip)
  )
  squares = [
    row["image"][..., 0] for row in records_lib.RecordSource(result.records, "test")
  ]
  wanted = encoder.encode_images(("elixrc", KIND), squares)
  prompts = encoding.record_prompts(with_standin, result.records, "test")
  wanted |= encoder.encode_text(("txt_emb",), prompts)
  for column in result.columns:
    name = column.description.name
    assert column.description.encoder.startswith(encoder.description)
    # Zeros of padded tokens are exactly that.
    np.testing.assert_array_equal(values(column, "test") == 0, wanted[name] == 0)
    np.testing.assert_allclose(
      values(column, "test"), wanted[name], rtol=2e-3, atol=2e-3, err_msg=name
    )
  # The user's tree is left as it is.
  assert not list(pathlib.Path(with_standin.root).glob("elixr*"))
  before = times(pathlib.Path(with_standin.records_dir))
  monkeypatch.setattr(clip_model, "load", lambda name: pytest.fail("loaded again"))
  again = dataset.prepare(with_standin, needs)
  assert again.card == result.card
  assert times(pathlib.Path(with_standin.records_dir)) == before


def test_elixr_captions_of_stand_ins_are_drawn_and_files_have_one(with_standin):
  needs = base.needs("txt_emb", "elixrc")
  asked = dataclasses.replace(with_standin, captions=3, caption_drop=0.3)
  result = dataset.prepare(asked, needs)
  assert {name: len(more) for name, more in result.captions.columns.items()} == {
    "txt_emb": 2
  }
  assert result.card.columns["txt_emb"].captions == 3
  assert result.card.columns["elixrc"].captions == 1
  source = result.source("train")
  seen = {bytes(source.drawn(0, row)["txt_emb"]) for row in captions.draw(0, 0, 40)}
  assert len(seen) == 3
  assert bytes(source[0]["txt_emb"]) in seen
  assert result.source("test").captions.num == 1
  ids = all_ids(result.records)
  files = np.ones((len(ids), 128, 768), np.float32)
  write_elixr(
    with_standin.root, "txt_emb", ids, files, encoder="the real one", standin=False
  )
  real = dataset.prepare(asked, needs)
  assert real.captions.columns == {}
  assert real.card.columns["txt_emb"].captions == 1


def test_elixr_embeddings_are_preferred_to_standins(with_standin):
  first = dataset.prepare(with_standin, NEEDS)
  assert first.columns[0].description.standin
  write_real(with_standin.root, all_ids(first.records))
  second = dataset.prepare(with_standin, NEEDS)
  about = second.columns[0].description
  assert (about.standin, about.encoder) == (False, "the real one")
  assert second.kind == "real images"
  assert (values(second.columns[0], "train") == 1).all()


def test_elixr_embeddings_need_no_standin(settings, open_records, monkeypatch):
  monkeypatch.setattr(standin, "train_standin", lambda *_, **__: pytest.fail("trained"))
  write_real(settings.root, all_ids(open_records(settings)))
  asked = dataclasses.replace(settings, standin=True)
  assert dataset.prepare(asked, NEEDS).kind == "real images"
  assert not settings.standin_clip.exists()


@pytest.mark.usefixtures("quick_training")
def test_elixr_standins_of_text_are_remade_for_other_prompts(with_standin):
  first = dataset.prepare(with_standin, base.needs("txt_emb"))
  asked = dataclasses.replace(with_standin, prompt_seed=1)
  second = dataset.prepare(asked, base.needs("txt_emb"))
  assert second.card.columns != first.card.columns
  assert second.card.fingerprint == first.card.fingerprint
  third = dataset.prepare(with_standin, base.needs("txt_emb"))
  for split in ("train", "test"):
    np.testing.assert_array_equal(
      values(third.columns[0], split), values(first.columns[0], split)
    )


@pytest.mark.usefixtures("quick_training")
@pytest.mark.parametrize("sizes", [(32, 16), (16, 32)])
def test_elixr_standins_are_kept_for_each_size(with_standin, sizes):
  one, two = (dataclasses.replace(with_standin, image_size=size) for size in sizes)
  first = dataset.prepare(one, NEEDS)
  kept = times(one.records_folder)
  assert one.standin_clip.is_dir()
  second = dataset.prepare(two, NEEDS)
  assert two.standin_clip.is_dir()
  assert times(one.records_folder) == kept
  reported = [result.columns[0].description.encoder for result in (first, second)]
  assert reported[0] != reported[1]
  assert np.abs(
    values(first.columns[0], "train") - values(second.columns[0], "train")
  ).max() > 0.01  # fmt: skip
  assert dataset.prepare(one, NEEDS).card == first.card
  assert dataset.prepare(two, NEEDS).card == second.card
  assert times(one.records_folder) == kept
  assert elixr.find_elixr(with_standin.root, KIND) is None


def test_elixr_standins_are_kept_without_the_setting(with_standin):
  without = dataclasses.replace(with_standin, standin=False)
  with pytest.raises(errors.InputError, match=f"no {KIND} embeddings in"):
    dataset.prepare(without, NEEDS)
  first = dataset.prepare(with_standin, NEEDS)
  assert dataset.prepare(without, NEEDS).card == first.card


def test_rows_without_embeddings_are_refused_or_dropped(settings, open_records):
  ids = all_ids(open_records(settings))
  write_real(settings.root, ids[1:])
  with pytest.raises(errors.InputError, match=rf"1 of 24 rows.*{ids[0]}"):
    dataset.prepare(settings, NEEDS)
  dropping = dataclasses.replace(settings, missing="drop")
  result = dataset.prepare(dropping, NEEDS)
  rows = np.concatenate([result.ids(split) for split in result.splits])
  assert sorted(rows.tolist()) == sorted(ids[1:])


def test_prepare_embeds_what_its_path_needs(
  settings, elixr_models, run_main, repository
):
  def prepare(*embed: str):
    return run_main(
      "prepare",
      f"--config={repository}/configs/elixr_b.py:tiny",
      f"--config.data.root={settings.root}",
      f"--config.data.records_dir={settings.records_dir}",
      "--config.data.image_size=32",
      f"--config.conditioning.kind={KIND}",
      *embed,
    )

  asked = ("--embed=elixr,elixrc", f"--elixr_models={elixr_models}")
  ended = prepare(*asked)
  assert ended.code == 0, ended.err
  assert ended.out.startswith("real images; train 15, validation 3, test 5, expert 1;")
  result = dataset.prepare(settings, base.needs(KIND, "elixrc"))
  encoder = elixr_model.load(elixr_models)
  paths = layout.find_tree(settings.root).originals
  for column in result.columns:
    name = column.description.name
    actual = elixr.find_elixr(settings.root, name)
    assert (actual.form, actual.standin, actual.num_rows) == ("A", False, 24)
    assert actual.encoder == column.description.encoder == encoder.description
    stems, stored = (
      np.concatenate(part) for part in zip(*actual.batches(), strict=True)
    )
    whole = [images.read_grey(paths[stem]) for stem in stems]
    wanted = dict(zip(stems, encoder.encode_images([name], whole)[name], strict=True))
    np.testing.assert_array_equal(stored, [wanted[stem] for stem in stems])
    for split in result.splits:
      expected = np.stack([wanted[name] for name in result.records.ids(split)])
      np.testing.assert_array_equal(
        values(column, split), expected.astype(np.float16), err_msg=name
      )
  # Once there, neither the flag nor the models are needed, and nothing is made again.
  kept = times(pathlib.Path(settings.root))
  checking = prepare(*asked, "--check_embeddings=9")
  assert checking.out.startswith(f"{KIND}, in files and made here: cosine 1.000")
  refused = prepare(*asked, "--check_embeddings=1")
  assert f"--check_embeddings 1 of columns {KIND}; expected 2 rows" in refused.complaint
  assert prepare(*asked).code == prepare().code == 0
  assert times(pathlib.Path(settings.root)) == kept


def test_elixr_flag_means_the_columns_of_the_path_or_all(
  settings, open_records, monkeypatch
):
  asked = []

  def embed(root, kinds, encoder, *, prompts, progress):
    asked.append((tuple(kinds), prompts))
    return tuple(kinds)

  monkeypatch.setattr(elixr_embed, "embed", embed)
  both = base.needs("clip_text", "txt_emb", "elixrc", model="standin")
  for names, needs in (
    (["elixr"], both),
    (["elixr", KIND], both),
    (["elixr"], base.needs()),
    ([KIND], base.needs()),
  ):
    elixr_embed.embed_named(settings, names, needs, None)
  records = open_records(settings)
  reported = {
    name: text
    for split in records.num_rows
    for name, text in zip(
      records.ids(split).tolist(),
      encoding.record_prompts(settings, records, split),
      strict=True,
    )
  }
  assert asked == [
    (("txt_emb", "elixrc"), reported),
    ((KIND, "txt_emb", "elixrc"), reported),
    (tuple(elixr.SHAPES), reported),
    ((KIND,), None),
  ]


@pytest.mark.parametrize("name", ["elixr_d", "clip_text", ""])
def test_embed_named_refuses_other_columns(settings, name):
  with pytest.raises(errors.InputError, match=f"--embed {name}; expected elixr, or"):
    elixr_embed.embed_named(settings, ["elixrc", name], base.needs(), None)
