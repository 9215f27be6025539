"""A run opens from its folder alone, wherever the folder and its data are."""

import dataclasses
import json
import pathlib
import shutil

import jax
import numpy as np
import pytest

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.run import card as card_lib
from cxr_diffusion_jax.run import dataset as dataset_lib
from cxr_diffusion_jax.run import run as run_lib
from cxr_diffusion_jax.sampling import conditions
from cxr_diffusion_jax.sampling.request import Request
from cxr_diffusion_jax.training import experiment as experiment_lib
from tests.fixtures.runs import make_run, save_run


@pytest.fixture(scope="module")
def place(small, tmp_path_factory) -> pathlib.Path:
  """A folder with the folder `run` of a run; its tree and records were moved."""
  place = tmp_path_factory.mktemp("moved")
  root = shutil.copytree(small.root, place / "tree")
  own = dataclasses.replace(
    small, root=root, records_dir=place / "records", path="findings"
  )
  experiment = experiment_lib.build(own.config())
  dataset = dataset_lib.prepare(experiment.data, experiment.recipe.conditioner.needs)
  params = experiment.recipe.init_fn(jax.random.key(0))
  run = make_run(experiment, dataset, place / "trained", ema_params=params)
  shutil.move(save_run(run, place / "trained"), place / "run")
  (place / "elsewhere").mkdir()
  shutil.move(root, place / "elsewhere" / "tree")
  shutil.move(place / "records", place / "elsewhere" / "records")
  return place


def test_open_run_needs_the_folder_alone(place):
  run = run_lib.open_run(place / "run")
  assert run.card.image_size == 32
  builder = conditions.ConditionBuilder(run=run)
  fields = builder.build(Request(findings=("Effusion", "Mass")), 1).fields
  assert fields["findings"].shape == (2, len(run.card.vocabulary))
  assert np.isnan(builder.build(Request(unconditional=True), 1).fields["age"]).all()
  with pytest.raises(errors.InputError, match="data_root or records_dir"):
    builder.build(Request(split="test"), 1)
  # Nothing was made where the data were.
  assert not (place / "tree").exists()
  assert not (place / "records").exists()


@pytest.mark.parametrize("moved", [("data_root",), ("records_dir",)])
def test_dataset_accepts_the_same_content_elsewhere(place, tmp_path, moved):
  places = {
    "data_root": str(place / "elsewhere" / "tree"),
    "records_dir": str(place / "elsewhere" / "records"),
  }
  given = {name: places[name] for name in moved}
  # Without its records, they are made again.
  run = run_lib.open_run(
    place / "run", **{"records_dir": str(tmp_path / "new"), **given}
  )
  assert len(run.dataset.ids("test")) == run.card.num_rows["test"]
  image_id = str(run.dataset.ids("test")[0])
  result = conditions.ConditionBuilder(run=run).build(Request(image_ids=(image_id,)), 1)
  assert result.entries[0]["image_id"] == image_id


def test_dataset_names_what_differs(place, tmp_path):
  root = shutil.copytree(place / "elsewhere" / "tree", tmp_path / "tree")
  (table,) = root.glob("Data_Entry*.csv")
  lines = table.read_text().splitlines()
  name, _, rest = lines[1].split(",", 2)
  lines[1] = f"{name},Hernia,{rest}"
  table.write_text("\n".join(lines) + "\n")
  where = {"data_root": str(root), "records_dir": str(tmp_path / "records")}
  run = run_lib.open_run(place / "run", **where)
  with pytest.raises(errors.InputError, match=r"other data: labels \w+ there"):
    _ = run.dataset


def test_open_run_works_from_any_directory_with_relative_roots(
  place, tmp_path, monkeypatch
):
  folder = shutil.copytree(place / "run", tmp_path / "run")
  config, card = card_lib.read(folder)
  config["data"] |= {"root": "tree", "records_dir": "records"}
  where = place / "elsewhere"
  card = dataclasses.replace(
    card, root=str(where / "tree"), records_dir=str(where / "records")
  )
  card_lib.write(folder, config, card)
  monkeypatch.chdir(tmp_path)
  assert len(run_lib.open_run("run").dataset.ids("test"))


def test_open_run_reads_the_first_version(place, tmp_path):
  folder = shutil.copytree(place / "run", tmp_path / "run")
  config = json.loads((folder / "config.json").read_text())
  card = json.loads((folder / "dataset.json").read_text())
  del config["format"], config["crc32"], config["train"]["init_from"]
  first = {"fingerprint", "kind", "num_rows", "statistics", "columns"}
  card = {name: value for name, value in card.items() if name in first}
  (folder / "config.json").write_text(json.dumps(config))
  (folder / "dataset.json").write_text(json.dumps({**card, "fingerprint": "times"}))
  where = place / "elsewhere"
  run = run_lib.open_run(
    folder, data_root=str(where / "tree"), records_dir=str(where / "records")
  )
  assert run.card.image_size == 32
  assert len(run.dataset.ids("test"))


@pytest.mark.parametrize(
  ("name", "edit", "message"),
  [
    ("config.json", ("diffusion", "prediction", "epsilon"), "diffusion.prediction"),
    ("config.json", ("sample", "num_steps", 3), r"sample.num_steps \(\d+ there, 3 "),
    ("dataset.json", ("statistics", "std", 9.0), "dataset.statistics.std"),
    ("dataset.json", ("vocabulary", 0, "Effusion"), "dataset.vocabulary"),
  ],
)
def test_open_run_refuses_files_that_were_edited(place, tmp_path, name, edit, message):
  folder = shutil.copytree(place / "run", tmp_path / "run")
  content = json.loads((folder / name).read_text())
  section, key, value = edit
  assert content[section][key] != value
  content[section][key] = value
  (folder / name).write_text(json.dumps(content))
  with pytest.raises(errors.InputError, match=message):
    run_lib.open_run(folder)


def test_open_run_refuses_another_place_unless_it_was_changed_on_purpose(
  place, tmp_path
):
  path = shutil.copytree(place / "run", tmp_path / "run") / "config.json"
  content = json.loads(path.read_text())
  content["data"]["columns"] = "elsewhere"
  path.write_text(json.dumps(content))
  with pytest.raises(errors.InputError, match=r"config\.json .*not as .*entry crc32"):
    run_lib.open_run(path.parent)
  del content["crc32"]
  path.write_text(json.dumps(content))
  assert run_lib.open_run(path.parent).config["data"]["columns"] == "elsewhere"


def test_open_run_names_a_key_of_the_config_that_was_renamed(place, tmp_path):
  """As by a flipped bit; the card, which reads the size too, is not blamed."""
  path = shutil.copytree(place / "run", tmp_path / "run") / "config.json"
  path.write_text(path.read_text().replace('"image_size"', '"image_qize"'))
  with pytest.raises(errors.InputError, match=r"config\.data\.image_qize"):
    run_lib.open_run(path.parent)


def test_open_run_refuses_a_folder_without_its_config(place, tmp_path):
  folder = shutil.copytree(place / "run", tmp_path / "run")
  (folder / "config.json").unlink()
  with pytest.raises(errors.InputError, match=r"has no config\.json"):
    run_lib.open_run(folder)


def test_open_run_refuses_newer_formats(place, tmp_path):
  folder = shutil.copytree(place / "run", tmp_path / "run")
  config = json.loads((folder / "config.json").read_text())
  for version, said in [(card_lib.FORMAT + 1, "4"), (None, "None")]:
    config["format"] = version
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(errors.InputError, match=f"has format {said}; expected"):
      run_lib.open_run(folder)
  (folder / "config.json").write_text("[]")
  with pytest.raises(errors.InputError, match="no JSON object"):
    run_lib.open_run(folder)


def test_run_files_are_written_to_and_read_from_a_bucket(place, bucket):
  config, card = card_lib.read(place / "run")
  card_lib.write(f"{bucket}/runs/a", config, card)
  assert card_lib.read(f"{bucket}/runs/a") == (config, card)


def test_open_run_refuses_a_folder_without_a_checkpoint(place, tmp_path):
  folder = shutil.copytree(place / "run", tmp_path / "run")
  shutil.rmtree(folder / "checkpoints")
  with pytest.raises(errors.InputError, match="no checkpoint in"):
    run_lib.open_run(folder)
