"""The command `generate`, on a small run: plan in, tree out."""

import dataclasses
import pathlib

import numpy as np
import pytest

from cxr_diffusion_jax.run import dataset as dataset_lib
from cxr_diffusion_jax.synthesis import acceptance
from tests.fixtures.runs import save_run


@pytest.fixture(scope="module")
def workdir(run_of, tmp_path_factory) -> pathlib.Path:
  """The folder of a run whose parameters are noise."""
  return save_run(
    run_of("findings", size="dit_tiny"), tmp_path_factory.mktemp("runs") / "small"
  )


@pytest.fixture
def plan(tmp_path) -> pathlib.Path:
  path = tmp_path / "plan.csv"
  path.write_text("findings,sex,age,view,num\nEffusion,F,63,AP,2\nNo Finding,M,,,3\n")
  return path


def test_generate_makes_a_tree_that_records_are_made_of(
  run_main, run_of, workdir, plan, tmp_path
):
  arguments = (f"--workdir={workdir}", f"--out={tmp_path / 'out'}", f"--plan={plan}")
  done = run_main("generate", *arguments, "--batch_size=4")
  assert done.code == 0, done.err
  assert "5 images: " in done.out
  run = run_of("findings", size="dit_tiny")
  settings = dataclasses.replace(
    run.data, root=str(tmp_path / "out"), records_dir=str(tmp_path / "records")
  )
  dataset = dataset_lib.prepare(settings, run.needs)
  assert dataset.kind == "generated images"
  records = dataset.records
  assert sum(records.num_rows.values()) == 5
  assert records.num_rows["test"] == 0
  fields = [records.fields(split) for split, n in records.num_rows.items() if n]
  effusion = records.vocabulary.index("Effusion")
  assert sum(of["findings"][:, effusion].sum() for of in fields) == 2
  assert sum(of["findings"].sum() for of in fields) == 2
  assert sorted(np.concatenate([of["sex"] for of in fields])) == [0, 0, 1, 1, 1]
  # The same command finds nothing to do, another one is refused.
  assert run_main("generate", *arguments, "--batch_size=4").code == 0
  again = run_main("generate", *arguments, "--batch_size=4", "--seed=1")
  assert "holds images of another call, with other seed" in again.complaint


def test_generate_exits_with_1_where_a_quota_is_not_filled(
  run_main, workdir, plan, tmp_path, monkeypatch
):
  judge = acceptance.AcceptanceJudge(
    title="sees no effusion",
    fingerprint="f",
    names=("Effusion",),
    score_fn=lambda images: np.zeros((len(images), 1)),
    low=np.array([0.5]),
    high=np.array([0.5]),
  )
  monkeypatch.setattr(acceptance, "open_judges", lambda *_, **__: [judge])
  arguments = (f"--workdir={workdir}", f"--out={tmp_path / 'out'}", f"--plan={plan}")
  done = run_main("generate", *arguments, "--batch_size=4", "--max_draws=2")
  assert done.code == 1
  assert "3 images: " in done.out
  assert "4 were rejected" in done.out
  assert "not filled: 1, first 'Effusion, F, 63, AP', which lacks 2 images" in done.err
  assert (tmp_path / "out/datasheet.md").exists()


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (("--plan=balanced",), "--plan balanced; expected with --num"),
    (("--plan=none.csv",), "none.csv"),
    (("--num=60", "--shard=4/4"), "--shard 4/4; expected P/N"),
    (("--num=60", "--accept=prob"), "a judge 'prob'"),
    (("--num=60", "--max_draws=101"), "101 draws of an image"),
    (("--num=60", "--split=tset"), "the split"),
    (("--num=60", f"--seed={2**32}"), "flag --seed=4294967296"),
  ],
)
def test_generate_refuses_wrong_flags(run_main, workdir, tmp_path, arguments, message):
  out = tmp_path / "out"
  refused = run_main("generate", f"--workdir={workdir}", f"--out={out}", *arguments)
  assert message in refused.complaint
  assert not out.exists()


def test_generate_refuses_the_folder_of_the_run(run_main, workdir, plan):
  refused = run_main(
    "generate", f"--workdir={workdir}", f"--out={workdir}", f"--plan={plan}"
  )
  assert "holds files that this command did not write" in refused.complaint


def test_generate_refuses_a_wrong_plan_before_it_opens_the_run(
  run_main, workdir, plan, tmp_path
):
  plan.write_text("findings,num\nEffusion,2\nEdma,1\n")
  (tmp_path / "run").mkdir()
  for name in ("config.json", "dataset.json"):
    (tmp_path / "run" / name).write_bytes((workdir / name).read_bytes())
  # This folder has no checkpoint, which would be the error otherwise.
  arguments = (f"--workdir={tmp_path / 'run'}", f"--plan={plan}")
  refused = run_main("generate", *arguments, f"--out={tmp_path / 'out'}")
  assert "plan.csv line 3: 'findings' is 'Edma'" in refused.complaint
