"""Reads mutated files; each must be read, or refused with one line, within limits.

valid tree --mutate one file--> folder --reader, in a child--> read | refused | fault

  python tests/stress/fuzz.py --reader csv --num 1000 --seed 0

A fault is an exception other than `errors.InputError`, more than 10 s, 1 GB of memory
beyond the child's own, a crash, or a file written or deleted. Prints a row for each
reader; exit code 1 if there is a fault. `--keep FOLDER` stores the files of faults.
"""

import argparse
from collections.abc import Iterator, Sequence
import dataclasses
import json
import os
import pathlib
import random
import re
import select
import shutil
import struct
import subprocess
import sys
import tempfile
import time
import traceback
from typing import Any
import zlib

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY))

from tests.stress import fuzz_readers  # noqa: E402

SECONDS = 10.0
BYTES = 10**9
READS = 250

# Files whose numbers are text, which may become longer.
TEXT = (".csv", ".txt", ".json")
NUMBERS = (
  *("0", "-1", "1e999", "nan", "-Infinity", "2147483648", "18446744073709551616"),
  *("9" * 400, "1e-320", "0x10", "true", "[]", "{}", '"', "null"),
)
WORDS = (
  *(b"\0" * 8, b"\xff" * 8, b"\x7f" * 8, b"\xff\xff\xff\x7f\0\0\0\0"),
  *(b"\x80" + b"\0" * 7, b"\0\0\0\x80", b"\1\0\0\0\0\0\0\0", b"\0\x10\0\0"),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
  """What came of a file: `kind` is read, refused or fault; `text` says why."""

  reader: str
  number: int
  kind: str
  text: str
  seconds: float


def mutate(content: bytes, draw: random.Random, *, name: str) -> bytes:
  """Changes 1 to 3 places; a PNG's checksums are right again in half of the files.

  Half of the JSON files stay JSON, with a value of another type, or without it.
  """
  if name.endswith(".json") and draw.random() < 0.5:
    return _retype(content, draw)
  for _ in range(draw.choice([1, 1, 2, 3])):
    change = draw.choice([_flip, _cut, _insert, _duplicate, _swap, _number, _number])
    content = change(content, draw, name.endswith(TEXT))
  if name.endswith(".png") and draw.random() < 0.5:
    content = _repair(content)
  return content


def _flip(content: bytes, draw: random.Random, text: bool) -> bytes:
  del text
  changed = bytearray(content)
  for _ in range(draw.randint(1, 8) if content else 0):
    changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
  return bytes(changed)


def _cut(content: bytes, draw: random.Random, text: bool) -> bytes:
  del text
  return content[: draw.randrange(len(content) + 1)]


def _insert(content: bytes, draw: random.Random, text: bool) -> bytes:
  place = draw.randrange(len(content) + 1)
  some = draw.choice([b",", b"\n", b'"', b";", b"\0", b"\xef\xbb\xbf", b"{", b"["])
  more = some * draw.randint(1, 64) if text else draw.randbytes(draw.randint(1, 64))
  return content[:place] + more + content[place:]


def _slice(content: bytes, draw: random.Random) -> slice:
  start = draw.randrange(len(content) + 1)
  return slice(start, start + draw.randint(1, max(1, len(content) // 4)))


def _duplicate(content: bytes, draw: random.Random, text: bool) -> bytes:
  del text
  part = _slice(content, draw)
  return content[: part.stop] + content[part] + content[part.stop :]


def _swap(content: bytes, draw: random.Random, text: bool) -> bytes:
  del text
  a, b, c, d = sorted(draw.randrange(len(content) + 1) for _ in range(4))
  return content[:a] + content[c:d] + content[b:c] + content[a:b] + content[d:]


def _number(content: bytes, draw: random.Random, text: bool) -> bytes:
  """Replaces a number in text, or bytes that may be one, by an extreme."""
  found = list(re.finditer(rb"\d+", content))
  if found and (text or draw.random() < 0.5):
    start, end = draw.choice(found).span()
    new = draw.choice(NUMBERS).encode() if text else b"9" * (end - start)
    return content[:start] + new + content[end:]
  word = draw.choice(WORDS)[: draw.choice([1, 2, 4, 8])]
  # Headers are at both ends, and are mostly what counts.
  near = draw.choice([len(content), 200])
  place = draw.randrange(min(len(content), near) + 1)
  if draw.random() < 0.3:
    place = len(content) - place
  return content[:place] + word + content[place + len(word) :]


def _retype(content: bytes, draw: random.Random) -> bytes:
  """Replaces a value anywhere in JSON, moves it elsewhere, or leaves it out."""
  root = json.loads(content)
  places = [*_places(root)]
  if not places:
    return b"[]"
  holder, key = draw.choice(places)
  if draw.random() < 0.2:
    del holder[key]
  elif draw.random() < 0.3:
    other, name = draw.choice(places)
    holder[key] = json.loads(json.dumps(other[name]))
  else:
    old = holder[key]
    wrapped = [[old], {"a": old}, str(old), [old] * 1000, {}, [], "", None, True]
    numbers = [-1, 0, 0.5, 10**18, 1e308, float("nan"), "\0", "../../x", "9" * 400]
    holder[key] = draw.choice([*wrapped, *numbers])
  return json.dumps(root).encode()


def _places(value: dict | list) -> Iterator[tuple[dict | list, Any]]:
  """Every object or list in JSON, with each of its keys or positions."""
  for key in value if isinstance(value, dict) else range(len(value)):
    yield value, key
    if isinstance(value[key], dict | list):
      yield from _places(value[key])


def _repair(content: bytes) -> bytes:
  """A PNG with right checksums, as far as its chunks can be followed."""
  changed, place = bytearray(content), 8
  while place + 12 <= len(changed):
    (length,) = struct.unpack(">I", changed[place : place + 4])
    end = place + 8 + length
    if end + 4 > len(changed):
      break
    changed[end : end + 4] = struct.pack(">I", zlib.crc32(changed[place + 4 : end]))
    place = end + 4
  return bytes(changed)


class Child:
  """A process that reads one folder after the other; a new one after each crash.

  And after `READS`: libraries keep a little memory of each, which reaches the limit.
  """

  def __init__(self, place: pathlib.Path, readers: Sequence[str]):
    self._place, self._readers = place, readers
    self._process: subprocess.Popen | None = None
    self._reads = 0

  def read(self, reader: str, folder: pathlib.Path) -> tuple[str, str, float]:
    """Returns an outcome's kind, text and seconds."""
    if self._reads == READS:
      self.stop()
    process = self._process or self._start()
    self._reads += 1
    start = time.monotonic()
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps([reader, str(folder)]) + "\n")
    process.stdin.flush()
    ready, _, _ = select.select([process.stdout], [], [], SECONDS)
    line = process.stdout.readline() if ready else ""
    if line:
      kind, text = json.loads(line)
      return kind, text, time.monotonic() - start
    self.stop()
    what = f"crash, exit code {process.returncode}"
    return "fault", what if ready else "hang", time.monotonic() - start

  def stop(self) -> None:
    if self._process is not None:
      self._process.kill()
      self._process.communicate()
      self._process, self._reads = None, 0

  def _start(self) -> subprocess.Popen:
    command = [sys.executable, str(pathlib.Path(__file__).resolve()), "--child"]
    command.append(",".join(self._readers))
    changes = {
      "PYTHONDONTWRITEBYTECODE": "1",
      "JAX_PLATFORMS": "cpu",
      # Compiled programs would be files written.
      "JAX_ENABLE_COMPILATION_CACHE": "false",
    }
    self._process = subprocess.Popen(
      command,
      cwd=self._place,
      env={**os.environ, **changes},
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=subprocess.DEVNULL,
      text=True,
    )
    assert self._process.stdout is not None
    # Imports do not count.
    self._process.stdout.readline()
    return self._process


def fuzz(
  readers: Sequence[str],
  num: int,
  seed: int,
  place: pathlib.Path,
  keep: pathlib.Path | None = None,
) -> list[Outcome]:
  """Reads `num` mutated files with each reader; `place` is an empty folder."""
  child, outcomes = Child(place, readers), []
  try:
    for reader in readers:
      trees = list(fuzz_readers.SEEDS[reader]())
      for number in range(num):
        draw = random.Random(f"{seed} {reader} {number}")
        tree = trees[number % len(trees)]
        folder = place / f"{reader}-{number}"
        content = tree.files[tree.target]
        # One in ten as it is: a reader that refuses all finds nothing.
        is_valid = number % 10 == 0
        if not is_valid:
          content = mutate(content, draw, name=tree.target)
        files = tree.finish_fn({**tree.files, tree.target: content})
        for name, data in files.items():
          (folder / name).parent.mkdir(parents=True, exist_ok=True)
          (folder / name).write_bytes(data)
        kind, text, seconds = child.read(reader, folder)
        if is_valid and kind == "refused":
          kind, text = "fault", f"a valid file is refused: {text}"
        left = {path for path in place.rglob("*") if path.is_file()}
        if left != {folder / name for name in files}:
          kind, text = "fault", "files were written or deleted"
        if kind == "fault" and keep is not None:
          shutil.copytree(folder, keep / folder.name, dirs_exist_ok=True)
        outcomes.append(
          Outcome(reader=reader, number=number, kind=kind, text=text, seconds=seconds)
        )
        for path in place.iterdir():
          shutil.rmtree(path)
  finally:
    child.stop()
  return outcomes


def _serve(readers: Sequence[str]) -> None:
  """The child: a folder a line in, an outcome a line out."""
  import resource

  for name in readers:
    with tempfile.TemporaryDirectory() as folder:
      tree = next(iter(fuzz_readers.SEEDS[name]()))
      for path, content in tree.files.items():
        (pathlib.Path(folder) / path).parent.mkdir(parents=True, exist_ok=True)
        (pathlib.Path(folder) / path).write_bytes(content)
      fuzz_readers.READERS[name](pathlib.Path(folder))
  used = int(pathlib.Path("/proc/self/statm").read_text().split()[0])
  limit = used * resource.getpagesize() + BYTES
  resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
  writes: list[str] = []
  sys.addaudithook(lambda event, args: _note_write(writes, event, args))
  answers = os.fdopen(os.dup(1), "w")
  # Libraries may print, also those in C.
  os.dup2(2, 1)
  print("ready", file=answers, flush=True)
  for line in sys.stdin:
    reader, folder = json.loads(line)
    writes.clear()
    kind, text = _outcome(reader, pathlib.Path(folder))
    if writes:
      kind, text = "fault", f"write: {writes[0]}"
    print(json.dumps([kind, text]), file=answers, flush=True)


def _outcome(reader: str, folder: pathlib.Path) -> tuple[str, str]:
  from cxr_diffusion_jax import errors

  try:
    fuzz_readers.READERS[reader](folder)
  except BaseException as error:
    chain: BaseException | None = error
    while chain is not None and not isinstance(chain, MemoryError):
      chain = chain.__cause__
    if chain is not None:
      return "fault", f"memory: {error}"
    if isinstance(error, errors.InputError):
      # The folder's name has no line ends.
      return ("fault" if "\n" in str(error) else "refused"), str(error)
    frame = traceback.extract_tb(error.__traceback__)[-1]
    place = f"{pathlib.Path(frame.filename).name}:{frame.lineno}"
    return "fault", f"{type(error).__name__} {error} at {place}"
  return "read", ""


def _note_write(writes: list[str], event: str, args: Sequence[object]) -> None:
  flags = os.O_WRONLY | os.O_RDWR | os.O_CREAT
  if (event == "open" and isinstance(args[2], int) and args[2] & flags) or event in (
    *("os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.symlink", "os.link"),
    *("os.system", "subprocess.Popen", "socket.connect"),
  ):
    writes.append(f"{event} {args[0]}")


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--reader", default="all", choices=["all", *fuzz_readers.READERS])
  parser.add_argument("--num", type=int, default=1000)
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--keep", type=pathlib.Path)
  parser.add_argument("--child", help=argparse.SUPPRESS)
  arguments = parser.parse_args()
  if arguments.child:
    _serve(arguments.child.split(","))
    return
  chosen = [*fuzz_readers.READERS] if arguments.reader == "all" else [arguments.reader]
  print(f"{'reader':12} files  read  refused  faults  slowest", flush=True)
  num_faults = 0
  for reader in chosen:
    with tempfile.TemporaryDirectory() as place:
      folder = pathlib.Path(place)
      outcomes = fuzz([reader], arguments.num, arguments.seed, folder, arguments.keep)
    kinds = [outcome.kind for outcome in outcomes]
    counts = [kinds.count(kind) for kind in ("read", "refused", "fault")]
    slowest = max(outcome.seconds for outcome in outcomes)
    row = f"{reader:12} {len(kinds):5} {counts[0]:5} {counts[1]:8} {counts[2]:7}"
    print(f"{row}  {slowest:5.2f} s", flush=True)
    num_faults += counts[2]
    for outcome in outcomes:
      if outcome.kind == "fault":
        print(f"  {outcome.number}: {outcome.text[:300]}", flush=True)
  sys.exit(num_faults > 0)


if __name__ == "__main__":
  main()
