"""Fixtures of all tests: simulated devices, a small dataset, commands to run on it."""

from collections.abc import Callable, Iterator
import dataclasses
import gc
import importlib
import logging
import os
import pathlib
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import warnings

# Before jax is imported anywhere: sharding tests need eight devices on any machine. A
# test runs a program a few times, so that compiling costs more than running: the other
# flags compile a small training step in 1.0 s instead of 5.4 s.
os.environ["XLA_FLAGS"] = " ".join(
  [
    os.environ.get("XLA_FLAGS", ""),
    "--xla_force_host_platform_device_count=8",
    "--xla_backend_optimization_level=0",
    "--xla_llvm_disable_expensive_passes=true",
    "--xla_cpu_use_fusion_emitters=false",
    "--xla_cpu_parallel_codegen_split_count=1",
  ]
)
# Each core has a test worker already. Two workers' threads of NumPy that wait for one
# another took ten times the work of one.
os.environ["OPENBLAS_NUM_THREADS"] = "1"
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["EPATH_USE_TF"] = "false"  # as `cli.command` does: fsspec opens buckets

# All test processes share one compilation cache. TEST_COMPILATION_CACHE=FOLDER keeps it
# from one test run to the next; pytest's workers inherit the temporary one.
os.environ["TEST_COMPILATION_CACHE"] = os.environ.get(
  "TEST_COMPILATION_CACHE"
) or tempfile.mkdtemp(prefix="cxr-compiled-")
os.environ["JAX_COMPILATION_CACHE_DIR"] = os.environ["TEST_COMPILATION_CACHE"]
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"
# JAX locks a cache only if its size is limited; without, a reader may see half a file.
os.environ["JAX_COMPILATION_CACHE_MAX_SIZE"] = str(4 << 30)

from absl import flags
from etils import epath
import numpy as np
import pytest

# Grain's worker processes read absl flags, which pytest never parses.
flags.FLAGS.mark_as_parsed()

# Tracing leaves little garbage in the oldest generation of a million objects.
gc.set_threshold(700, 10, 200)

# A shell that starts tests in the background ignores SIGINT; their processes would too.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_unconfigure() -> None:
  """Removes a temporary compilation cache, once no worker uses it."""
  cache = pathlib.Path(os.environ["TEST_COMPILATION_CACHE"])
  if cache.name.startswith("cxr-compiled-") and not os.environ.get(
    "PYTEST_XDIST_WORKER"
  ):
    shutil.rmtree(cache, ignore_errors=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
  """Puts the longest files first, so that no worker is left with one at the end."""
  longest = (
    "test_every_path.py",
    "test_two_processes.py",
    "test_survival.py",
    "test_loop.py",
    "test_condition_effect.py",
    "test_end_to_end.py",
    "test_compare.py",
    "test_run.py",
    "test_opening.py",
    "test_latent_path.py",
    "test_api.py",
    "test_diffusers.py",
    "test_start.py",
  )
  rank = {name: number for number, name in enumerate(longest)}
  items.sort(key=lambda item: rank.get(item.path.name, len(longest)))


# Fixtures that several folders of tests share.
pytest_plugins = (
  "tests.fixtures.densenet",
  "tests.fixtures.runs",
  "tests.fixtures.training",
  "tests.fixtures.trees",
)

REPOSITORY = pathlib.Path(__file__).resolve().parents[1]

# Networks of 25,000 parameters: seconds to compile, the DiT half as many.
NETWORKS = {
  "tiny": {
    "model.block_channels": (8,),
    "model.attention": (False,),
    "model.num_heads": 2,
    "model.context_width": 8,
    "model.norm_groups": 4,
  },
  "dit_tiny": {"model.depth": 1, "model.width": 32, "model.num_heads": 2},
}

# A run on images of 32 pixels.
SMALL = {
  "data.image_size": 32,
  "codec.levels": 1,
  # Runs of any length are one program then, compiled once.
  "optimizer.schedule": "constant",
  "optimizer.warmup_steps": 2,
  "train.num_steps": 6,
  "train.batch_size": 8,
  "train.log_every": 1,
  "train.validate_every": 100,
  "train.validation_batches": 1,
  "train.sample_every": 0,
  "train.checkpoint_every": 2,
  "sample.num_steps": 2,
  "sample.num_images": 2,
  "parallel.num_devices": 1,
}


# Additional settings of each path, to use stand-ins and few tokens.
SMALL_PATH = {
  "clip_text": {"conditioning.encoder": "standin"},
  "clip_vision": {"conditioning.encoder": "standin"},
  "elixr_b": {},
  "elixr_bc": {"conditioning.pooled": True},
  "elixr_c": {"conditioning.pooled": True},
  "findings": {},
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Small:
  """A tree with embeddings, and the recipe of a small run on it.

  Attributes:
    root: the tree.
    records_dir: the folder of its records, shared by all tests.
    path: the conditioning path.
    size: of the network, one of `NETWORKS`.
  """

  root: pathlib.Path
  records_dir: pathlib.Path
  path: str = "elixr_c"
  size: str = "tiny"

  def changes(self, **changes) -> dict:
    """Changes to `PATH.py:SIZE`; `train__num_steps=3` sets train.num_steps."""
    folders = {"data.root": str(self.root), "data.records_dir": str(self.records_dir)}
    more = {name.replace("__", "."): value for name, value in changes.items()}
    return {**SMALL, **NETWORKS[self.size], **SMALL_PATH[self.path], **folders, **more}

  def config(self, **changes):
    """A ConfigDict with the recipe."""
    module = importlib.import_module(f"configs.{self.path}")
    config = module.get_config(self.size)
    config.update_from_flattened_dict(self.changes(**changes))
    return config

  def arguments(self, workdir: pathlib.Path | None = None, **changes) -> list[str]:
    """The recipe as flags of `main` (with a workdir) or `prepare`."""
    config = REPOSITORY / "configs" / f"{self.path}.py"
    result = [f"--config={config}:{self.size}"]
    result += [
      f"--config.{name}={value}" for name, value in self.changes(**changes).items()
    ]
    return [*result, f"--workdir={workdir}"] if workdir else result


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ended:
  """How a command ended.

  Attributes:
    code: its exit code.
    out: its stdout.
    err: its stderr.
  """

  code: int
  out: str
  err: str

  @property
  def complaint(self) -> str:
    """The error line of rejected input: exit code 2, no traceback, the last line."""
    lines = self.err.strip().splitlines()
    error_lines = [line for line in lines if line.startswith("error: ")]
    assert self.code == 2, f"exit code {self.code}: {self.err}"
    assert "Traceback" not in self.err
    assert len(error_lines) == 1, self.err
    assert lines[-1] == error_lines[0], self.err
    return error_lines[0]


def _is_flag(value: object) -> bool:
  return isinstance(value, flags.FlagHolder)


@pytest.fixture(scope="session")
def repository() -> pathlib.Path:
  """The repository's root."""
  return REPOSITORY


@pytest.fixture(scope="session")
def nih_cxr_mini() -> pathlib.Path:
  """A tree of 799 real NIH images beside the checkout."""
  root = REPOSITORY.parent / "shared" / "nih-cxr-mini"
  if not root.is_dir():
    pytest.skip("no real images: ../shared/nih-cxr-mini is absent")
  return root


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Small:
  """The small dataset; its ELIXR-C maps are random projections of 4x4 patches."""
  from cxr_diffusion_jax.data import images
  from cxr_diffusion_jax.extras.phantom import tree as phantom_tree
  from tests.fixtures import elixr_files

  folder = tmp_path_factory.mktemp("small")
  root = phantom_tree.write_tree(folder / "tree", num_images=64, size=32)
  paths = sorted(root.glob("original/*/images/*.png"))
  project = np.random.default_rng(0).standard_normal((16, 1376), np.float32) / 4
  pixels = np.stack([images.read_grey(path) for path in paths]) / np.float32(127.5) - 1
  patches = pixels.reshape(-1, 8, 4, 8, 4).swapaxes(2, 3).reshape(-1, 8, 8, 16)
  elixr_files.write_elixr(
    root,
    "elixrc",
    [path.stem for path in paths],
    patches @ project,
    encoder="stand-in: a random projection",
    standin=True,
  )
  return Small(root=root, records_dir=folder / "records")


@pytest.fixture(scope="session")
def small_dit(small) -> Small:
  """`small` with the network that compiles sooner, where any will do."""
  return dataclasses.replace(small, size="dit_tiny")


@pytest.fixture(scope="session")
def make_autoencoder() -> Callable[..., pathlib.Path]:
  """Saves an f2 autoencoder of noise: `make_autoencoder(folder, seed=1, ...)`."""
  import jax

  from cxr_diffusion_jax.interop import diffusers as interop
  from cxr_diffusion_jax.models import autoencoder as autoencoder_lib

  def make(folder: pathlib.Path, *, seed: int = 0, **fields) -> pathlib.Path:
    network = autoencoder_lib.AutoencoderKL(
      **{
        "in_channels": 1,
        "out_channels": 1,
        "latent_channels": 2,
        "block_channels": (4, 4),
        "num_layers": 1,
        "norm_groups": 2,
        "mid_attention": False,
        **fields,
      }
    )
    image = np.zeros((1, network.factor, network.factor, network.in_channels))
    shapes = jax.eval_shape(network.init, jax.random.key(0), image)["params"]
    rng = np.random.default_rng(seed)
    params = jax.tree.map(
      lambda leaf: 0.3 * rng.standard_normal(leaf.shape, np.float32), shapes
    )
    interop.save_autoencoder(folder, network, params)
    return folder

  return make


@pytest.fixture
def bucket() -> Iterator[str]:
  """The address of an empty bucket in this process's memory."""
  import fsspec
  from fsspec.implementations import memory

  class Bucket(memory.MemoryFileSystem):
    store, pseudo_dirs = {}, [""]

    @classmethod
    def _strip_protocol(cls, path):
      return super()._strip_protocol(str(path).removeprefix("gs:/"))

  cached = epath.backend.fsspec_backend._get_filesystem
  real = fsspec.get_filesystem_class("gcs")
  fsspec.register_implementation("gcs", Bucket, clobber=True)
  cached.cache_clear()
  yield "gs://bucket"
  # Not by name: fsspec would go on with the class that it has loaded.
  fsspec.register_implementation("gcs", real, clobber=True)
  cached.cache_clear()


@pytest.fixture
def command() -> Iterator[Callable[..., subprocess.Popen]]:
  """Starts a main as a process: `command("sample", "--workdir=...")`."""
  started = []

  def start(name: str, *arguments: str, **environment: str) -> subprocess.Popen:
    process = subprocess.Popen(
      [sys.executable, "-m", f"cxr_diffusion_jax.{name}", *arguments],
      cwd=REPOSITORY,
      env={**os.environ, **environment},
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    started.append(process)
    return process

  yield start
  for process in started:
    process.kill()
    process.communicate()


@pytest.fixture
def ended() -> Callable[[subprocess.Popen], Ended]:
  """Waits for a process of `command`."""

  def wait(process: subprocess.Popen) -> Ended:
    out, err = process.communicate(timeout=300)
    return Ended(code=process.returncode, out=out, err=err)

  return wait


@pytest.fixture
def logs_restored(monkeypatch) -> None:
  """Restores the logging that `terminal.show_logs` changes."""
  root = logging.getLogger()
  monkeypatch.setattr(root, "handlers", [*root.handlers])
  monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
  monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)


@pytest.fixture
def run_main(monkeypatch, capfd, logs_restored, share_programs) -> Callable[..., Ended]:
  """Runs a main in this process, as a shell would: `run_main("prepare", "--...")`.

  It saves the seconds that a process needs for its imports, and for programs that an
  earlier test compiled. Tests that need a process (signals, kills, limits) use
  `command`.
  """
  from cxr_diffusion_jax.cli import command as command_lib
  from cxr_diffusion_jax.training import denoiser_trainer

  monkeypatch.setattr(denoiser_trainer, "make_programs", share_programs)

  def run(name: str, *arguments: str) -> Ended:
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    monkeypatch.chdir(REPOSITORY)
    capfd.readouterr()
    code, module = 0, {}
    # A refusal collects garbage, of which a process of its own has little: without
    # this, a second and a half for all that earlier tests have left.
    gc.freeze()
    try:
      # A new module each time, because it defines flags when it is executed.
      module = runpy.run_module(f"cxr_diffusion_jax.{name}", run_name="under_test")
      command_lib.run(module["main"])
    except SystemExit as stop:
      code = stop.code or 0
    finally:
      gc.unfreeze()
      # Remove the flags of the main alone: imported libraries keep theirs.
      groups = [value for value in module.values() if isinstance(value, dict)]
      holders = [
        *module.values(),
        *(flag for group in groups for flag in group.values()),
      ]
      own = {holder.name for holder in holders if _is_flag(holder)}
      for flag in set(flags.FLAGS):
        if flag in own or flag.startswith("config."):
          delattr(flags.FLAGS, flag)
    out, err = capfd.readouterr()
    return Ended(code=code, out=out, err=err)

  return run
