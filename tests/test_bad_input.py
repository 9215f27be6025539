"""Wrong input ends in one clear line and exit code 2, whichever command is given it."""

import csv
import os
import pathlib
import shutil

import h5py
import numpy as np
import pytest


@pytest.fixture
def tree(small, tmp_path) -> pathlib.Path:
  """A copy of the small tree that a test may spoil."""
  return pathlib.Path(shutil.copytree(small.root, tmp_path / "tree"))


@pytest.fixture
def prepare(run_main, small, tmp_path):
  """Runs `prepare` on a tree: `prepare(root, data__missing="drop")`."""

  def run(root: pathlib.Path, **changes):
    changes = {"data__records_dir": tmp_path / "records", **changes}
    return run_main("prepare", *small.arguments(data__root=root, **changes))

  return run


def _images(tree: pathlib.Path) -> list[pathlib.Path]:
  return sorted(tree.glob("original/*/images/*.png"))


def _table(tree: pathlib.Path) -> pathlib.Path:
  (path,) = tree.glob("Data_Entry*.csv")
  return path


def test_bad_input_missing_root(prepare, tmp_path):
  complaint = prepare(tmp_path / "none").complaint
  assert f"no such folder: data root {tmp_path / 'none'}" in complaint
  assert "fix: " in complaint


def test_bad_input_root_without_images(prepare, tree):
  shutil.rmtree(tree / "original")
  complaint = prepare(tree).complaint
  assert str(tree) in complaint
  assert "original/" in complaint


def test_bad_input_root_without_its_table(prepare, tree):
  _table(tree).unlink()
  assert "Data_Entry" in prepare(tree).complaint


@pytest.mark.parametrize("column", ["Image Index", "Finding Labels"])
def test_bad_input_table_without_a_column(column, prepare, tree):
  path = _table(tree)
  with path.open(newline="") as file:
    rows = list(csv.reader(file))
  place = rows[0].index(column)
  with path.open("w", newline="") as file:
    csv.writer(file).writerows(row[:place] + row[place + 1 :] for row in rows)
  complaint = prepare(tree).complaint
  assert column in complaint
  assert path.name in complaint


def test_bad_input_image_that_is_absent(prepare, tree):
  gone = _images(tree)[5]
  gone.unlink()
  complaint = prepare(tree).complaint
  assert gone.stem in complaint
  assert "missing" in complaint
  dropped = prepare(tree, data__missing="drop")
  assert dropped.code == 0, dropped.err


def test_bad_input_truncated_image_is_named_and_skipped_only_on_request(prepare, tree):
  torn = _images(tree)[7]
  torn.write_bytes(torn.read_bytes()[:200])
  complaint = prepare(tree).complaint
  assert torn.name in complaint
  dropped = prepare(tree, data__missing="drop")
  assert dropped.code == 0, dropped.err


def _first_h5(tree: pathlib.Path) -> pathlib.Path:
  return sorted((tree / "elixrc").glob("*.h5"))[0]


def test_bad_input_embeddings_of_another_shape(prepare, tree):
  path = _first_h5(tree)
  with h5py.File(path, "r+") as file:
    count = len(file["Embeddings"])
    del file["Embeddings"]
    file["Embeddings"] = np.zeros((count, 1, 8, 8, 1375), np.float32)
  complaint = prepare(tree).complaint
  assert path.name in complaint
  assert "1375" in complaint
  assert "1376" in complaint


def test_bad_input_embeddings_under_an_unknown_key(prepare, tree):
  path = _first_h5(tree)
  with h5py.File(path, "r+") as file:
    file.move("Embeddings", "Vectors")
  complaint = prepare(tree).complaint
  assert path.name in complaint
  assert "Vectors" in complaint


def test_bad_input_truncated_embeddings(prepare, tree):
  path = _first_h5(tree)
  os.truncate(path, path.stat().st_size // 2)
  assert path.name in prepare(tree).complaint


def test_bad_input_embeddings_of_other_images(prepare, tree):
  for path in (tree / "elixrc").glob("*.h5"):
    with h5py.File(path, "r+") as file:
      names = file["Image Index"]
      names[:] = [f"x{row}".encode() + name for row, name in enumerate(names[:])]
  assert "no id of the embeddings" in prepare(tree).complaint


def test_bad_input_embeddings_of_some_images(prepare, tree):
  with h5py.File(_first_h5(tree), "r+") as file:
    for key in ("Embeddings", "Image Index"):
      kept = file[key][1:]
      del file[key]
      file[key] = kept
  assert "rows have no embedding" in prepare(tree).complaint
  dropped = prepare(tree, data__missing="drop")
  assert dropped.code == 0, dropped.err


def test_bad_input_no_embeddings(prepare, tree):
  shutil.rmtree(tree / "elixrc")
  complaint = prepare(tree).complaint
  assert "no elixrc embeddings" in complaint
  assert "--standin" in complaint


@pytest.mark.parametrize("name", ["main", "prepare"])
@pytest.mark.parametrize(
  ("flag", "message"),
  [
    ("--config.train.num_step=3", "no key config.train.num_step in "),
    ("--config.train.num_step=3", "fix: did you mean train.num_steps or "),
    ("--config.trian.num_steps=3", "fix: did you mean train.num_steps or "),
    ("--config.codec.folder=x", "no key config.codec.folder in "),
    ("--config.data.root[0]=x", "data.root[0]"),
    ("--config.train.num_steps=many", "num_steps"),
    ("--config.model.norm_group=3", "model.norm_groups"),
    ("--confg=x", "confg"),
    ("stray", "'stray'"),
    ("--config.parallel.num_devices=99", "num_devices=99; expected 0 (all) to 8"),
    ("--config.parallel.tensor=16", "16 of 1 devices"),
    ("--config.data.image_size=33", "image size 33"),
  ],
)
def test_bad_input_meaningless_flags(name, flag, message, run_main, small, tmp_path):
  workdir = tmp_path / "run" if name == "main" else None
  complaint = run_main(name, *small.arguments(workdir), flag).complaint
  assert message in complaint
  assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["sample", "generate", "compare", "evaluate"])
def test_bad_input_empty_out(name, run_main):
  workdir = f"--workdir{'s' * (name == 'compare')}=somewhere"
  for empty in ("", " "):
    complaint = run_main(name, workdir, f"--out={empty}").complaint
    assert complaint == "error: --out is empty; expected a folder"


@pytest.mark.parametrize(
  ("config", "message"),
  [
    ("configs/none.py", "configs/none.py"),
    ("configs/elixr_c.py:tiny:x", "config"),
    ("configs/elixr_c.py:huge", "'huge'; expected one of tiny, small, base"),
  ],
)
def test_bad_input_missing_configs(config, message, run_main):
  assert message in run_main("prepare", f"--config={config}").complaint


def test_bad_input_config_with_an_unknown_key(run_main, tmp_path):
  path = tmp_path / "own.py"
  path.write_text(
    "from configs import elixr_c\n\n\n"
    "def get_config():\n"
    "  config = elixr_c.get_config('tiny')\n"
    "  config.train.num_step = 3\n"
    "  return config\n"
  )
  complaint = run_main("prepare", f"--config={path}").complaint
  assert "unknown key config.train.num_step" in complaint
  assert "did you mean num_steps" in complaint


@pytest.mark.parametrize(
  ("name", "flags"),
  [
    ("main", ["--config=configs/elixr_c.py:tiny"]),
    ("main", ["--workdir=somewhere"]),
    ("prepare", []),
    ("sample", []),
    ("report", []),
  ],
)
def test_bad_input_missing_required_flag(name, flags, run_main):
  complaint = run_main(name, *flags).complaint
  assert "--workdir" in complaint or "--config" in complaint


def test_bad_input_shard_of_work_that_is_not_shared(run_main, small):
  complaint = run_main(
    "prepare", *small.arguments(), "--shard=0/2", "--download=nih", "--resize"
  ).complaint
  assert "--shard with --download and --resize" in complaint


def test_bad_input_unwritable_workdir(run_main, small, tmp_path):
  (tmp_path / "file").write_text("not a folder")
  workdir = tmp_path / "file" / "run"
  complaint = run_main("main", *small.arguments(workdir)).complaint
  assert f"--workdir {workdir}" in complaint
  assert "a folder that can be written to" in complaint


def test_bad_input_unwritable_records(prepare, tree, tmp_path):
  (tmp_path / "file").write_text("not a folder")
  where = tmp_path / "file" / "records"
  assert str(where) in prepare(tree, data__records_dir=where).complaint


def test_bad_input_wrong_network_is_reported_before_the_data(run_main, small, tmp_path):
  arguments = small.arguments(
    tmp_path / "run", model__norm_groups=3, data__root=tmp_path / "none"
  )
  assert "3 norm groups" in run_main("main", *arguments).complaint


def test_bad_input_empty_validation_split(run_main, small, tree, tmp_path):
  """Images of one patient are all for training."""
  path = _table(tree)
  lines = path.read_text().splitlines(keepends=True)
  path.write_text("".join(lines[:2]))
  arguments = small.arguments(
    tmp_path / "run", data__root=tree, data__records_dir=tmp_path / "records"
  )
  for name in ("main", "prepare"):
    given = [text for text in arguments if name == "main" or "--workdir" not in text]
    complaint = run_main(name, *given).complaint
    assert "split 'validation' without a row" in complaint
