"""What the mains share: flags in, one clear line out, progress on the terminal.

flags --parse--> main() --> exit code: 0 done, 2 the user's input is wrong
"""

from collections.abc import Callable, Iterable
import errno
import functools
import gc
import inspect
import logging as python_logging
import os
import pathlib
import signal
import sys
import time
import warnings

from absl import app, flags, logging

from cxr_diffusion_jax import errors


def run(main: Callable[..., None]) -> None:
  """Runs a main under absl; wrong input ends in one line and exit code 2.

  Args:
    main: reads its flags itself; one that takes a parameter gets the list of the
      arguments that are no flags, from all others these are refused.
  """
  # Tensorflow greets on stderr in many lines that concern nobody here.
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
  os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
  # Buckets are opened by fsspec; tensorflow's client takes seconds to import.
  os.environ.setdefault("EPATH_USE_TF", "false")

  def guarded(argv: list[str]) -> None:
    takes_arguments = bool(inspect.signature(main).parameters)
    if len(argv) > 1 and not takes_arguments:
      _fail(f"unknown argument {argv[1]!r}; fix: flags are written --name=value")
    logging.set_verbosity(logging.INFO)
    logging.get_absl_handler().addFilter(_ours)
    sys.unraisablehook = _unraisable
    # The transformers library warns at each use that its Flax classes will go.
    warnings.filterwarnings("ignore", category=FutureWarning)
    # A save that failed leaves writes that nobody will wait for any more.
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
    arguments = [argv[1:]] if takes_arguments else []
    refusal = _refusal(functools.partial(main, *arguments))
    if refusal:
      # They complain when they are collected: here, where that is heard and not told.
      gc.collect()
      _fail(refusal)

  app.run(guarded, flags_parser=_parse)


def progress(label: str, done: int, total: int) -> None:
  """A `types.Progress` that keeps one line of the terminal up to date.

  Where stderr is not a terminal, it writes a line every ten seconds.
  """
  now = time.monotonic()
  # What stands behind a comma (a loss, say) changes while the work stays the same.
  work = label.split(",")[0]
  first, before, last = _seen.setdefault(work, [now, done, float("-inf")])
  finished = done >= total > 0
  if not finished and now - last < (0.2 if sys.stderr.isatty() else 10.0):
    return
  _seen[work][2] = now
  # Work that goes on where it was interrupted did not do the earlier part just now.
  elapsed, now_done = now - first, done - before
  text = f"{label}: {done:,}" + (f" of {total:,}" if total else "")
  if elapsed > 0.5 and now_done > 0:
    text += f", {now_done / elapsed:,.1f}/s"
    if finished:
      text += f", {elapsed:.0f} s"
    elif total:
      text += f", {(total - done) * elapsed / now_done:.0f} s to go"
  ending = "\r" if sys.stderr.isatty() and not finished else "\n"
  sys.stderr.write(f"{text:<78}{ending}")
  sys.stderr.flush()
  if finished:
    del _seen[work]


def numbers(name: str, texts: list[str] | None) -> tuple[float, ...] | None:
  """Reads the numbers of a list flag; None where it was not given.

  Raises:
    errors.InputError: one is no number.
  """
  if texts is None:
    return None
  try:
    return tuple(float(text) for text in texts)
  except ValueError as error:
    raise errors.InputError(f"--{name}={','.join(texts)}", "numbers") from error


def writable_folder(path: str) -> pathlib.Path:
  """Makes a folder and returns it.

  Raises:
    errors.InputError: it cannot be made or written to.
  """
  folder = pathlib.Path(path)
  try:
    folder.mkdir(parents=True, exist_ok=True)
    probe = folder / f".writable-{os.getpid()}"
    probe.touch()
    probe.unlink()
  except OSError as error:
    raise errors.InputError(
      f"--workdir {path} ({error.strerror})", "a folder that can be written to"
    ) from error
  return folder


def _refusal(main: Callable[[], None]) -> str:
  """Runs a main; returns what to tell the user if it cannot go on, else nothing."""
  try:
    main()
  except errors.InputError as error:
    return str(error)
  except OSError as error:
    if error.errno not in _NO_ROOM:
      raise
    place = error.filename or os.getcwd()
    return f"{place}: {error.strerror}; fix: make room, then repeat the command"
  except errors.Interrupted as error:
    print(error)
    sys.exit(128 + error.signal_number)
  except KeyboardInterrupt:
    sys.stderr.write("\ninterrupted; repeat the same command to continue\n")
    sys.exit(128 + signal.SIGINT)
  return ""


# A full disk, a quota, a limit on files, a disk that went read-only: not our defects.
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)

# When each work was first told, how much of it was done then, and when it was last.
_seen: dict[str, list[float]] = {}


def _ours(record: python_logging.LogRecord) -> bool:
  """Lets warnings pass, and of the rest what this project and CLU tell."""
  # These log with tracebacks what they also raise, which is told.
  loud = (f"{os.sep}orbax{os.sep}", f"{os.sep}asyncio{os.sep}", "asynclib.py")
  if any(part in record.pathname for part in loud):
    return False
  return record.levelno >= python_logging.WARNING or any(
    part in record.pathname for part in ("cxr_diffusion_jax", f"{os.sep}clu{os.sep}")
  )


def _unraisable(unraisable) -> None:
  """Passes on all but TensorStore's late answers to a save that has failed."""
  if str(unraisable.exc_value) != "Event loop is closed":
    sys.__unraisablehook__(unraisable)


def _parse(argv: Iterable[str]) -> list[str]:
  try:
    # Flags may follow arguments.
    flags.FLAGS.set_gnu_getopt(True)
    rest = flags.FLAGS(list(argv))
    if "config" in flags.FLAGS and flags.FLAGS["config"].value is not None:
      # A config file that is not there is told only when the config is looked into.
      flags.FLAGS["config"].value["seed"]
    return rest
  except (flags.Error, errors.InputError) as error:
    lines = str(error).strip().splitlines()
    # An error inside a config file comes with its whole traceback.
    traced = any(line.startswith("Traceback") for line in lines)
    return _fail(f"{lines[0]} {lines[-1]}" if traced else str(error))
  except (KeyError, AttributeError, TypeError, ValueError, OSError) as error:
    # ConfigDict's own errors: an unknown key with the nearest one, a wrong type.
    return _fail(str(error.args[0] if error.args else error))


def _fail(text: str) -> list[str]:
  sys.stderr.write(f"error: {' '.join(text.split())}\n")
  sys.stderr.flush()
  sys.exit(2)
