"""Speed and memory beside PyTorch's diffusers, in turns, with random weights.

  python tests/benchmarks [--parts forward,train] [--runs 5] [--out FOLDER]

For each part both sides load and warm up; then they take turns, one at a time, so that
both see the same load of the machine. Prints the median seconds of both with their
range, the ratio peer / ours (above 1, ours is faster) as the median over turns, the
same ratio of CPU time, and the peak memory of each process; writes OUT/speed.json.

  forward, train        UNet (64, 128, 256, 256) on 32x32x4, context 77x256, batch 8
  ddim                  DDIM with guidance by the same, --steps steps, batch 8
  sd_forward, sd_train  Stable Diffusion's UNet on 64x64x4, context 77x768, batch 1;
                        sd_train needs 18 GB and is not among the default parts
  vae_decode, vae_encode  Stable Diffusion's autoencoder at 512x512, batch 1

The peer needs torch and diffusers, in this Python or in that of --peer. It runs
eagerly with channels last, or under `torch.compile` with --compile (needs a C++
compiler). Where they are missing, only ours is measured, and the reason is printed. Its
threads wait for each other without spinning, which would count as CPU time and is slow
on a busy machine.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys

FOLDER = pathlib.Path(__file__).resolve().parent
DEFAULT = "forward,train,sd_forward,vae_decode,vae_encode,ddim"


class Child:
  """A part's process on one side; see `sides.py` for what it answers."""

  def __init__(self, python: str, side: str, part: str, options: list[str]):
    self._process = subprocess.Popen(
      [python, str(FOLDER / "sides.py"), side, part, *options],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
      env={"JAX_PLATFORMS": "cpu", "OMP_WAIT_POLICY": "passive"} | os.environ,
    )
    self.ready = self._answer()

  def ask(self, request: str) -> dict:
    """The answer to `run` or `end`."""
    assert self._process.stdin is not None
    self._process.stdin.write(request + "\n")
    self._process.stdin.flush()
    answer = self._answer()
    if request == "end":
      self._process.wait(60)
    return answer

  def _answer(self) -> dict:
    assert self._process.stdout is not None
    for line in self._process.stdout:
      if line.startswith("{"):
        return json.loads(line)
    return {"error": f"exit code {self._process.wait(60)}"}


def measure(part: str, peer: str, runs: int, options: list[str]) -> dict:
  """Both sides of a part; the peer's error, if it has one, in place of its figures."""
  children = {"ours": Child(sys.executable, "ours", part, options)}
  children["peer"] = Child(peer, "peer", part, options)
  result = {side: dict(child.ready) for side, child in children.items()}
  usable = [side for side, one in result.items() if "error" not in one]
  turns = [
    {side: children[side].ask("run") for side in usable} for _ in range(max(1, runs))
  ]
  for side in usable:
    result[side] |= children[side].ask("end")
    result[side]["seconds"] = [turn[side]["seconds"] for turn in turns]
    result[side]["cpu_seconds"] = [turn[side]["cpu_seconds"] for turn in turns]
  if len(usable) == 2:
    for what in ("seconds", "cpu_seconds"):
      result[f"ratio_{what}"] = [
        round(turn["peer"][what] / turn["ours"][what], 3) for turn in turns
      ]
  return result


def describe(values: list[float]) -> str:
  """Median and range."""
  low, high = min(values), max(values)
  return f"{statistics.median(values):.3g} ({low:.3g} to {high:.3g})"


def show(part: str, result: dict) -> None:
  """Prints a part's figures."""
  for side in ("peer", "ours"):
    one = result[side]
    if "error" in one:
      print(f"{part:11} {side}: not measured, {one['error']}")
      continue
    memory = f"{one['running_gib']:.2f} GiB ({one['peak_gib']:.2f} with the first run)"
    print(
      f"{part:11} {side}: {describe(one['seconds'])} s, of CPU"
      f" {describe(one['cpu_seconds'])} s, {memory},"
      f" {one['million_parameters']:.1f} M parameters; {one['versions']}"
    )
  if "ratio_seconds" in result:
    print(
      f"{part:11} peer / ours: {describe(result['ratio_seconds'])}, of CPU time"
      f" {describe(result['ratio_cpu_seconds'])}"
    )
  load = ", ".join(f"{x:.1f}" for x in os.getloadavg())
  print(f"{part:11} load of the machine {load} on {os.cpu_count()} cores", flush=True)


def main() -> None:
  parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
  parser.add_argument("--parts", default=DEFAULT)
  parser.add_argument("--runs", type=int, default=5, help="turns of each part")
  parser.add_argument("--steps", type=int, default=50, help="of ddim")
  parser.add_argument("--peer", default=sys.executable, help="Python with diffusers")
  parser.add_argument("--compile", action="store_true", help="torch.compile the peer")
  parser.add_argument("--tiny", action="store_true", help="small shapes, for a test")
  parser.add_argument("--out", default="runs/speed")
  arguments = parser.parse_args()
  options = ["--steps", str(arguments.steps)]
  options += [f"--{name}" for name in ("compile", "tiny") if vars(arguments)[name]]
  results = {}
  for part in arguments.parts.split(","):
    results[part] = measure(part, arguments.peer, arguments.runs, options)
    show(part, results[part])
  out = pathlib.Path(arguments.out)
  out.mkdir(parents=True, exist_ok=True)
  (out / "speed.json").write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
  main()
