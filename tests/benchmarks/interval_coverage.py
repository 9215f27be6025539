"""How often 95 % intervals hold, and how often equal paths are called different.

  python tests/benchmarks/interval_coverage.py [--repeats 2000] [--figures auroc,share]

Simulated patients, as `tests/fixtures/simulations.py` describes them. Prints the three
tables of docs/evaluation.md. 2,000 repeats take 25 minutes of one core; of these,
precision, recall, density and coverage 15.
"""

import argparse
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

from tests.fixtures import simulations


def main() -> None:
  """Prints all tables as Markdown."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--repeats", type=int, default=2000)
  parser.add_argument("--figures", default=",".join(simulations.FIGURES))
  parser.add_argument("--paths", default="2,3,6,10")
  arguments = parser.parse_args()
  heads = [f"{patients} x {each}" for patients, each in simulations.DESIGNS]
  print(f"{arguments.repeats} repeats")
  print(f"| figure | {' | '.join(heads)} |\n|---|{'--:|' * len(heads)}")
  for figure in filter(None, arguments.figures.split(",")):
    cells = []
    for design in simulations.DESIGNS:
      values = simulations.intervals((figure,), *design, arguments.repeats)[figure]
      cells.append(f"{simulations.coverage(values):.3f}")
    print(f"| {figure} | {' | '.join(cells)} |", flush=True)
  print(f"\n| equal paths | {' | '.join(heads)} |\n|---|{'--:|' * len(heads)}")
  for figure in ("mean", "auroc"):
    for num in map(int, filter(None, arguments.paths.split(","))):
      cells = [
        f"{simulations.false_verdicts(figure, num, *design, arguments.repeats):.3f}"
        for design in simulations.DESIGNS
      ]
      print(f"| {num}, {figure} | {' | '.join(cells)} |", flush=True)
  heads = [f"{runs} runs, {ratio:g}" for runs, ratio in simulations.RUNS]
  print(f"\n| equal paths | {' | '.join(heads)} |\n|---|{'--:|' * len(heads)}")
  for num in map(int, filter(None, arguments.paths.split(","))):
    cells = [
      "{:.3f}, {:.3f}".format(
        *simulations.false_verdicts_of_runs(num, *design, arguments.repeats)
      )
      for design in simulations.RUNS
    ]
    print(f"| {num} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
  main()
