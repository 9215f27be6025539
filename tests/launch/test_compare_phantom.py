"""The comparison's script: its commands fit the program; it stops and resumes."""

import importlib
import os
import pathlib
import re
import shlex
import subprocess

import pytest

NUM_TRAINING_SEEDS = 2

# Does nothing but note its arguments; exits with 130 at the call that STOP_AT names.
STUB = """#!/bin/bash
echo "$*" >>"${CALLS}"
[ "$(wc -l <"${CALLS}")" != "${STOP_AT:-}" ] || exit 130
"""


def _printed(repository: pathlib.Path, *arguments: str, **environment) -> list[list]:
  """The commands of a dry run, as lists of words."""
  script = repository / "launch" / "compare_phantom.sh"
  result = subprocess.run(
    ["bash", script, "--dry_run", *arguments],
    env={**os.environ, **environment},
    capture_output=True,
    text=True,
    check=True,
  )
  return [shlex.split(line) for line in result.stdout.splitlines()]


def _split(
  commands: list[list[str]],
) -> tuple[list[list[str]], list[list[str]], list[str]]:
  """The commands that prepare, those that train, and the one that compares."""
  modules = [words[2].rpartition(".")[2] for words in commands]
  num = modules.index("main")
  assert {*modules[:num]} == {"prepare"}
  assert {*modules[num:-1]} == {"main"}
  assert modules[-1] == "compare"
  return commands[:num], commands[num:-1], commands[-1]


def _flags(command: list[str]) -> dict[str, str]:
  """Flag -> value, of words such as --a=b and --a b."""
  text = " ".join(word.replace(" ", "") for word in command[3:])
  return dict(re.findall(r"--(\S+?)[= ](\S+)", text))


@pytest.mark.parametrize("scale", ["full", "gpu", "smoke"])
def test_compare_phantom_prints_commands_that_exist(scale, repository):
  prepares, runs, compare = _split(_printed(repository, SCALE=scale, BATCH="32"))
  assert [_flags(one)["config"] for one in prepares] == list(
    dict.fromkeys(_flags(run)["config"] for run in runs)
  )
  for command in (*prepares, *runs):
    given = _flags(command)
    path, choice = given.pop("config").split(":")
    module = importlib.import_module(path.removesuffix(".py").replace("/", "."))
    config = module.get_config(choice)
    assert (given.pop("workdir", None) is None) == (command in prepares)
    assert (given.get("config.train.batch_size") == "32") == (command in runs)
    for key, value in given.items():
      *sections, last = key.removeprefix("config.").split(".")
      for section in sections:
        config = config[section]
      assert last in config, key
      type(config[last])(value)
      config = module.get_config(choice)
  package = repository / "cxr_diffusion_jax"
  paths = [package / "compare.py", *(package / "cli").glob("*_flags.py")]
  sources = [path.read_text(encoding="utf-8") for path in paths]
  for flag in _flags(compare):
    assert any(f'"{flag}"' in source for source in sources), flag


def test_compare_phantom_compares_equal_information_beside_the_image_itself(repository):
  _, runs, compare = _split(_printed(repository, "--out", "here"))
  (reference, *runs), compare = map(_flags, runs), _flags(compare)
  compared = compare["workdirs"].split(",")
  assert compared == [run["workdir"] for run in runs]
  assert compare["memorisation_reference"] == reference["workdir"]
  assert compare["out"] == "here/report"
  names = [pathlib.PurePath(folder).name.rsplit("-", 1) for folder in compared]
  by_path = {name: [n for n, _ in names].count(name) for name, _ in names}
  assert by_path == dict.fromkeys(
    [
      *("findings", "clip_text", "elixr_b", "clip_vision-same_findings"),
      *("elixr_c-same_findings", "elixr_c-same_patient", "elixr_c-self"),
      "elixr_bc-same_findings",
    ],
    NUM_TRAINING_SEEDS,
  )
  for run in runs:
    wanted = pathlib.PurePath(run["workdir"]).name.split("-")
    assert run.get("config.conditioning.reference", wanted[1]) == wanted[1]
    assert run["config.seed"] == wanted[-1]
  budgets = {(run["config.train.num_steps"], run["config"][-8:]) for run in runs}
  assert len(budgets) == 1
  assert len(compare["seeds"].split(",")) == 3
  # Membership needs 300 patients of each list, eight for each condition.
  assert 8 * int(compare["memorisation_num"]) >= 300
  assert compare["primary"] == "frechet_distance:probe"


def test_compare_phantom_takes_real_images_in_place_of_phantoms(repository):
  _, runs, compare = _split(_printed(repository, REAL="some/tree"))
  runs, compare = list(map(_flags, runs)), _flags(compare)
  assert {run["config.data.root"] for run in runs} == {"some/tree"}
  assert {run["config.data.phantom_images"] for run in runs} == {"0"}
  assert compare["out"] == "runs/compare_tree/report"
  assert "sweep" not in compare


def test_compare_phantom_adds_utility_on_request(repository):
  plain = _flags(_printed(repository)[-1])
  with_utility = _flags(_printed(repository, UTILITY="1")[-1])
  assert with_utility["metrics"] == plain["metrics"] + ",utility"
  assert {*with_utility} - {*plain} >= {"utility_num", "utility_steps"}


@pytest.fixture
def stubbed(repository, tmp_path):
  """Runs the script with a stub in place of Python; `calls` reads what it was asked."""
  (tmp_path / "launch").mkdir()
  (tmp_path / "bin").mkdir()
  script = tmp_path / "launch" / "compare_phantom.sh"
  script.write_bytes((repository / "launch" / "compare_phantom.sh").read_bytes())
  (tmp_path / "launch" / "environment.sh").write_text("prepare_environment() { :; }\n")
  stub, calls = tmp_path / "bin" / "python", tmp_path / "calls"
  stub.write_text(STUB)
  stub.chmod(0o755)
  environment = {
    **os.environ,
    "PATH": f"{stub.parent}:{os.environ['PATH']}",
    "CALLS": str(calls),
    "SCALE": "smoke",
  }

  def run(**changes) -> subprocess.CompletedProcess:
    return subprocess.run(
      ["bash", script, "--out", "here"],
      env={**environment, **changes},
      capture_output=True,
      text=True,
      check=False,
    )

  return run, lambda: calls.read_text().splitlines()


def test_compare_phantom_stops_with_130_and_resumes(stubbed):
  run, calls = stubbed
  stopped = run(STOP_AT="5")
  assert stopped.returncode == 130
  assert len(calls()) == 5
  assert "[5/8] train elixr_c-same_findings-0  ETA of all 0 min" in stopped.stdout
  assert run().returncode == 0
  # Four stages were done; the fifth begins again, and the comparison ends it.
  done = calls()
  assert len(done) == 5 + 4
  assert done[5] == done[4]
  assert "cxr_diffusion_jax.compare" in done[-1]
  # A third call only compares; other settings train again.
  assert run().returncode == 0
  assert len(calls()) == 9 + 1
  assert run(STEPS="8").returncode == 0
  assert len(calls()) == 10 + 6


def test_compare_phantom_trains_several_at_a_time(stubbed):
  run, calls = stubbed
  failed = run(JOBS="3", STOP_AT="4")
  assert failed.returncode == 1
  assert failed.stderr.startswith("error: train ")
  assert ".log" in failed.stderr
  assert not any("cxr_diffusion_jax.compare" in call for call in calls())
  assert run(JOBS="3").returncode == 0
  done = calls()
  assert "cxr_diffusion_jax.compare" in done[-1]
  assert len({call for call in done if ".main " in call}) == 5


def test_compare_phantom_refuses_unknown_arguments(repository):
  script = repository / "launch" / "compare_phantom.sh"
  for arguments, scale in ((["--bad"], "full"), (["--out"], "full"), ([], "huge")):
    result = subprocess.run(
      ["bash", script, *arguments],
      env={**os.environ, "SCALE": scale},
      capture_output=True,
      text=True,
      check=False,
    )
    assert result.returncode == 2
    assert result.stderr.startswith("error: ")
