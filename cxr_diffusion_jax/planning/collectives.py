"""Collectives and loops of a compiled program, read from its HLO text.

HLO text --parse--> computations --rounds of their loops--> bytes that a chip sends

A ring of n chips sends (n - 1) / n of an array to gather or scatter it, and twice that
to reduce it everywhere.
"""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import math
import re

KINDS = (
  "all-gather",
  "all-reduce",
  "all-to-all",
  "collective-permute",
  "reduce-scatter",
)

_BITS = {
  **dict.fromkeys(("pred", "s8", "u8"), 8),
  **dict.fromkeys(("s16", "u16", "f16", "bf16"), 16),
  **dict.fromkeys(("s32", "u32", "f32"), 32),
  **dict.fromkeys(("s64", "u64", "f64", "c64"), 64),
  **dict.fromkeys(("s4", "u4"), 4),
}
_ARRAY = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\]")
# An array with its layout, in which S(1) is a TPU's memory on the chip.
_PLACED = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\](\{[^}]*\})?")
ON_CHIP = "S(1)"
_HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) .*\{$")
_OPERATION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*?) ([a-z][\w\-]*)\((.*)$")
_OPERANDS = re.compile(r"%([\w.\-]+)")
# Operations that move nothing, or whose computations count for themselves.
_FREE = {
  *("bitcast", "call", "conditional", "constant", "get-tuple-element", "parameter"),
  *("tuple", "while"),
}
_CALLED = re.compile(r"\b(?:calls|to_apply|body|condition)=%?([\w.\-]+)")
_BODY = re.compile(r"\bbody=%?([\w.\-]+)")
_BRANCHES = re.compile(r"\bbranch_computations=\{([^}]*)\}")
# Groups along axes of a mesh: mesh['a'=2,'b'=4], device_ids=(...) {'b'}; a part of an
# axis is 'b':(1)2.
_MESH = re.compile(r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}")
_BOUND = re.compile(r"= s32\[\](?:\{[^}]*\})? constant\((\d+)\)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Traffic:
  """What one chip sends in one call of a program, by kind of collective.

  Attributes:
    count: calls, with all rounds of loops.
    sent: bytes.
  """

  count: int = 0
  sent: float = 0.0


def parse(text: str) -> dict[str, Traffic]:
  """Returns the collectives of a compiled program, by kind."""
  computations, entry = _computations(text)
  rounds = _rounds(computations, entry)
  totals, seen = {}, set()
  for name, lines in computations.items():
    if not rounds.get(name):
      continue
    for kind, sent, channel in _collectives(lines):
      # The start and the end of an asynchronous collective are of one channel.
      if channel in seen:
        continue
      seen |= {channel} if channel else set()
      before = totals.get(kind, Traffic())
      totals[kind] = Traffic(
        count=before.count + rounds[name], sent=before.sent + rounds[name] * sent
      )
  return dict(sorted(totals.items()))


def repeated_traffic(text: str) -> float:
  """Bytes that loops read and write after their first round.

  XLA's own count holds each body once. Arrays with as many rows as the loop has rounds
  count one row a round: they are what a loop is over.
  """
  computations, entry = _computations(text)
  total = 0.0
  for name, times in _rounds(computations, entry, loops_only=True).items():
    if times < 2:
      continue
    sizes: dict[str, float] = {}
    for line in computations[name]:
      match = _OPERATION.match(line)
      if match is None:
        continue
      own, result, operation, rest = match.groups()
      sizes[own] = _result_size(result, times)
      if operation not in _FREE:
        read = {o for o in _OPERANDS.findall(rest.partition("), ")[0]) if o in sizes}
        total += (times - 1) * (sizes[own] + sum(sizes[o] for o in read))
  return total


def memory_traffic(text: str) -> float:
  """Bytes between a TPU and its memory in one call, with all rounds of loops.

  XLA's own count of bytes accessed holds every use of every array, but those that the
  compiler keeps in the memory on the chip cross only where they are copied.
  """
  computations, entry = _computations(text)
  total = 0.0
  for name, times in _rounds(computations, entry, loops_only=True).items():
    sizes: dict[str, float] = {}
    for line in computations.get(name, ()):
      match = _OPERATION.match(line)
      if match is None:
        continue
      own, result, operation, rest = match.groups()
      placed = _PLACED.findall(result)
      sizes[own] = sum(
        _row_size(kind, sides, times)
        for kind, sides, layout in placed
        if ON_CHIP not in layout
      )
      if operation in _FREE or operation.endswith("-done"):
        continue
      if operation in ("async-start", "copy-start", "slice-start"):
        total += times * _copied(placed, times)
      else:
        read = {o for o in _OPERANDS.findall(rest.partition("), ")[0]) if o in sizes}
        total += times * (sizes[own] + sum(sizes[o] for o in read))
  return total


def _copied(placed: Sequence[tuple[str, str, str]], times: int) -> float:
  """Bytes of an asynchronous copy, whose result lists source, target and scalars."""
  arrays = [array for array in placed if array[1]]
  size = min((_row_size(k, s, times) for k, s, _ in arrays), default=0.0)
  spaces = {ON_CHIP in layout for *_, layout in arrays}
  return size if len(spaces) > 1 else 0.0 if True in spaces else 2 * size


def longest_square(text: str) -> int:
  """The greatest n such that an array's last two axes are both at least n."""
  squares = {0}
  for match in _ARRAY.finditer(text):
    sides = [int(side) for side in match[2].split(",") if side]
    if len(sides) > 1:
      squares.add(min(sides[-2:]))
  return max(squares)


def _computations(text: str) -> tuple[dict[str, list[str]], str]:
  """Name -> lines of each computation, and the name of the first that runs."""
  computations: dict[str, list[str]] = {}
  entry, lines = "", []
  for line in text.splitlines():
    head = _HEAD.match(line)
    if head and not line.startswith(("HloModule", " ")):
      lines = computations.setdefault(head[2], [])
      entry = head[2] if head[1] else entry
    elif line.startswith(" "):
      lines.append(line)
  return computations, entry


def _rounds(
  computations: Mapping[str, list[str]], entry: str, *, loops_only: bool = False
) -> dict[str, int]:
  """How often each computation runs; loops without a known count run once.

  Args:
    loops_only: leave out what single operations call: fused and reducing functions.
  """
  rounds: dict[str, int] = {}

  def visit(name: str, times: int) -> None:
    rounds[name] = rounds.get(name, 0) + times
    for line in computations.get(name, ()):
      called = (_BODY if loops_only else _CALLED).findall(line)
      for branches in _BRANCHES.findall(line):
        called += [branch.strip().lstrip("%") for branch in branches.split(",")]
      trips = _trips(line, computations) if " while(" in line else 1
      for other in called:
        visit(other, times * trips)

  visit(entry, 1)
  return rounds


def _trips(line: str, computations: Mapping[str, list[str]]) -> int:
  """The rounds of a loop, from its own mark or the bound of its condition."""
  if known := _TRIPS.search(line):
    return int(known[1])
  condition = re.search(r"\bcondition=%?([\w.\-]+)", line)
  lines = computations.get(condition[1], []) if condition else []
  bounds = [bound for each in lines for bound in _BOUND.findall(each)]
  compares = any("direction=LT" in each for each in lines)
  return int(bounds[0]) if compares and len(bounds) == 1 else 1


def _collectives(lines: list[str]) -> Iterator[tuple[str, float, str]]:
  """Kind, bytes that a chip sends and channel of each collective of a computation."""
  for line in lines:
    match = _OPERATION.match(line)
    if match is None:
      continue
    _, result, name, rest = match.groups()
    kind = name.removesuffix("-start")
    if kind not in KINDS:
      continue
    sizes = [_size(*array) for array in _ARRAY.findall(result)]
    if name.endswith("-start") and kind in ("all-gather", "collective-permute"):
      # The result of a start is a pair: what is sent, and what arrives.
      sizes = [max(sizes, default=0.0)]
    n = _group(rest)
    factors = {
      "all-reduce": 2 * (n - 1) / n,
      "reduce-scatter": n - 1,
      "collective-permute": 1,
    }
    channel = re.search(r"channel_id=(\d+)", rest)
    sent = factors.get(kind, (n - 1) / n) * sum(sizes)
    yield kind, sent, channel[1] if channel else ""


def _group(rest: str) -> int:
  """The number of chips in each group of a collective."""
  if match := _MESH.search(rest):
    sizes = dict(re.findall(r"'([^']+)'=(\d+)", match[1]))
    axes = re.findall(r"'([^']+)'(?::\(\d+\)(\d+))?", match[2])
    return math.prod(int(part or sizes[axis]) for axis, part in axes)
  if match := re.search(r"replica_groups=\[(\d+),(\d+)\]", rest):
    return int(match[2])
  if match := re.search(r"replica_groups=\{\{([\d,]*)\}", rest):
    return len(match[1].split(","))
  return 2


def _result_size(result: str, rounds: int) -> float:
  """Bytes of a result in one round of a loop."""
  return sum(_row_size(kind, sides, rounds) for kind, sides in _ARRAY.findall(result))


def _row_size(kind: str, sides: str, rounds: int) -> float:
  """Bytes of an array in one round: of a row, if it has one for each round."""
  stacked = rounds > 1 and sides.split(",")[0] == str(rounds)
  return _size(kind, sides) / (rounds if stacked else 1)


def _size(kind: str, sides: str) -> float:
  return math.prod(int(s) for s in sides.split(",") if s) * _BITS.get(kind, 0) / 8
