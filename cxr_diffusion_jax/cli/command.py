"""What the commands share: flags, help, exit codes, output folders.

argv --parse--> main() --> exit code: 0 done, 1 hosts missing, 2 wrong input,
                           128 + signal interrupted
"""

from collections.abc import Callable, Iterable
import contextlib
import functools
import gc
import hashlib
import inspect
import os
import pathlib
import platform
import sys
import traceback
import warnings

from absl import app, flags
from etils import epath

from cxr_diffusion_jax import artifacts, disk, errors
from cxr_diffusion_jax.cli import configs, flag_help, terminal

progress = terminal.TERMINAL.progress

# Clients of object stores.
_STORES = (
  *("aiobotocore.", "aiohttp.", "botocore.", "fsspec.", "gcsfs.", "s3fs."),
  *("google.api_core.", "google.auth.", "google.cloud."),
)


def run(main: Callable[..., None]) -> None:
  """Runs a main under absl; wrong input ends in one line and exit code 2.

  Args:
    main: the command's function, which reads its own flags. If it has a parameter, it
      receives the arguments that are not flags; otherwise such arguments are refused.
  """
  # Tensorflow writes many lines to stderr when it is imported.
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
  os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
  # Open buckets with fsspec: tensorflow's client takes seconds to import.
  os.environ.setdefault("EPATH_USE_TF", "false")
  keep_compiled()
  # TensorStore writes checkpoints past fsspec: a listing that fsspec has cached lacks
  # them.
  for store in ("GCS", "S3"):
    os.environ.setdefault(f"FSSPEC_{store}", '{"use_listings_cache": false}')

  def guarded(argv: list[str]) -> None:
    takes_arguments = bool(inspect.signature(main).parameters)
    if len(argv) > 1 and not takes_arguments:
      _fail(f"unknown argument {argv[1]!r}; fix: write flags as --name=value")
    arguments = [argv[1:]] if takes_arguments else []
    terminal.show_logs()
    # transformers warns at each use that its Flax classes will be removed.
    warnings.filterwarnings("ignore", category=FutureWarning)
    # A failed save leaves coroutines that are never awaited.
    warnings.filterwarnings("ignore", "coroutine .* was never awaited")
    refusal = _refusal(functools.partial(main, *arguments))
    if refusal:
      # Collect garbage now, so that destructor warnings come before the error.
      gc.collect()
      _fail(refusal)

  app.run(guarded, flags_parser=functools.partial(_parse, main))


def keep_compiled() -> None:
  """Has JAX keep compiled programs in ~/.cache/cxr_diffusion_jax; before its import.

  Each kind of CPU has its own folder, because programs do not run on all others. JAX's
  own variables have precedence: JAX_COMPILATION_CACHE_DIR is another folder, and
  JAX_ENABLE_COMPILATION_CACHE=false keeps nothing.
  """
  if "JAX_COMPILATION_CACHE_DIR" in os.environ:
    return
  cpu = platform.machine()
  with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as file:
    lines = (line for line in file if line.startswith(("model name", "flags")))
    cpu += "-" + hashlib.sha256("".join(sorted(set(lines))).encode()).hexdigest()[:8]
  home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
  folder = os.path.join(home, "cxr_diffusion_jax", "compiled", cpu)
  try:
    os.makedirs(folder, exist_ok=True)
  except OSError:
    return
  os.environ["JAX_COMPILATION_CACHE_DIR"] = folder
  os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
  # JAX locks a cache only if its size is limited.
  os.environ.setdefault("JAX_COMPILATION_CACHE_MAX_SIZE", str(4 << 30))


def numbers(name: str, texts: list[str] | None) -> tuple[float, ...] | None:
  """Reads the numbers of a list flag; None if it was not given.

  Raises:
    errors.InputError: a text that is not a number.
  """
  if texts is None:
    return None
  try:
    return tuple(float(text) for text in texts)
  except ValueError as error:
    raise errors.InputError(f"--{name}={','.join(texts)}", "numbers") from error


def workdir(path: str, flag: str = "--workdir") -> epath.Path:
  """Creates the folder of a run, local or in a bucket, and returns it.

  `flag` is what named it.

  Raises:
    errors.InputError: it cannot be made or written to.
  """
  if artifacts.is_remote(path) and not path.startswith("gs://"):
    raise errors.InputError(
      f"{flag} {path}",
      "a folder of this machine, or gs://BUCKET/FOLDER: checkpoints are written to no"
      " other store",
    )
  folder = epath.Path(path)
  try:
    probe = folder / f".writable-{os.getpid()}"
    artifacts.write_text(probe, "")
    probe.unlink()
  except Exception as error:
    # Each object-store client has its own exceptions.
    lines = str(error).strip().splitlines() or [type(error).__name__]
    reason = getattr(error, "strerror", "") or lines[0][:200]
    raise errors.InputError(
      f"{flag} {path} ({reason})", "a folder that can be written to"
    ) from error
  return folder


def writable_folder(path: str, flag: str = "--workdir") -> pathlib.Path:
  """The same of a folder that may not be in a bucket."""
  if artifacts.is_remote(path):
    raise errors.InputError(f"{flag} {path}", "a folder of this machine")
  return pathlib.Path(workdir(path, flag))


def _refusal(main: Callable[[], None]) -> str:
  """Runs a main; returns an error message for the user, or ''."""
  try:
    with disk.reporting(os.getcwd()):
      main()
  except errors.InputError as error:
    return str(error)
  except errors.MissingHosts as error:
    terminal.TERMINAL.write(f"error: {error}")
    sys.exit(1)
  except errors.Interrupted as error:
    print(error)
    sys.exit(128 + error.signal_number)
  except KeyboardInterrupt as error:
    terminal.TERMINAL.write("interrupted; repeat the same command to continue")
    sys.exit(errors.exit_code(error))
  except Exception as error:
    refusal = _environment_refusal(error)
    if refusal is None:
      raise
    return str(refusal)
  return ""


def _environment_refusal(error: Exception) -> errors.InputError | None:
  """What to say of an exception in JAX's start or an object store's client, if it is.

  None of them has a class to catch: their modules tell.
  """
  modules = [
    frame.f_globals.get("__name__", "")
    for frame, _ in traceback.walk_tb(error.__traceback__)
  ]
  reason = (str(error).strip().splitlines() or ["no such device"])[0][:300]
  if modules[-1] == "jax._src.xla_bridge":
    return errors.InputError(
      f"JAX_PLATFORMS={os.environ.get('JAX_PLATFORMS', '')}: {reason}",
      "platforms that JAX has devices of here",
      "unset it, or install JAX for that platform: pip install 'jax[cuda]'",
    )
  if modules[-1].startswith("etils.epath") and str(error).endswith("://'"):
    return errors.InputError(
      f"a path that begins with {error}",
      "a folder of this machine, gs:// or s3://",
      "mount that store, or copy the folder",
    )
  defects = (TypeError, AttributeError, AssertionError)
  if any(name.startswith(_STORES) for name in modules) and type(error) not in defects:
    return errors.InputError(
      f"a bucket cannot be used: {reason}",
      "a bucket that exists, and permission to use it",
      "pip install what is missing"
      if isinstance(error, ImportError)
      else "check its name, the network and the credentials, then repeat the command",
    )
  return None


def _parse(main: Callable[..., None], argv: Iterable[str]) -> list[str]:
  try:
    argv = configs.resolve_flag(list(argv))
    # Flags may follow arguments.
    flags.FLAGS.set_gnu_getopt(True)
    if flag_help.is_wanted(argv):
      help_text = flag_help.text(main.__globals__["__doc__"], argv)
      with contextlib.suppress(BrokenPipeError):
        print(help_text, flush=True)
      sys.exit(0)
    rest = flags.FLAGS(argv)
    for name in {"out", "workdir"} & {*flags.FLAGS}:
      # An unset variable of a shell; the current folder is '.'.
      if flags.FLAGS[name].present and not str(flags.FLAGS[name].value).strip():
        raise errors.InputError(f"--{name} is empty", "a folder")
    if "config" in flags.FLAGS and flags.FLAGS["config"].value is not None:
      # An error inside a config file is raised when the config is first read.
      flags.FLAGS["config"].value["seed"]
    return rest
  except (flags.Error, errors.InputError) as error:
    lines = str(error).strip().splitlines()
    # An error inside a config file comes with its whole traceback.
    traced = any(line.startswith("Traceback") for line in lines)
    return _fail(f"{lines[0]} {lines[-1]}" if traced else str(error))
  except (LookupError, AttributeError, TypeError, ValueError, OSError) as error:
    # ConfigDict's own errors: an unknown key, a wrong type.
    unknown = configs.unknown_key(list(argv)) if "config" in flags.FLAGS else None
    return _fail(str(unknown or (error.args[0] if error.args else error)))


def _fail(text: str) -> list[str]:
  terminal.TERMINAL.write(f"error: {' '.join(text.split())}")
  sys.exit(2)
