"""Flags that `evaluate` and `compare` share: what is generated, and who judges it.

flags --define--> holders --options--> path_assessment.Options
"""

from collections.abc import Sequence
import os
import pathlib

from absl import flags

from cxr_diffusion_jax import artifacts, errors
from cxr_diffusion_jax.cli import command
from cxr_diffusion_jax.evaluation import features, measurement
from cxr_diffusion_jax.evaluation.comparison import path_assessment

Holders = dict[str, flags.FlagHolder]

ALL = "all"

# Trains classifiers and needs embeddings: minutes more, and only where asked for.
SLOW = ("utility", "embeddings")

# What `evaluate` and `compare` write to a folder.
_OUTPUTS = (
  "figures",
  "generated",
  "metrics.json",
  "probe",
  "reader_study",
  "report.html",
  "table.csv",
  "table.md",
)

# They are the flags of the main that asks for them.
flags.disclaim_key_flags()


def define() -> Holders:
  """Defines the flags."""
  texts, number = flags.DEFINE_list, flags.DEFINE_integer
  quick = [name for name in measurement.SUBJECTS if name not in SLOW]
  return {
    "split": flags.DEFINE_string("split", "test", "Split of the conditions."),
    "num": number("num", None, "Conditions; half of the split by default.", 1),
    "seeds": texts("seeds", ["0"], "Sampling seeds."),
    "features": texts("features", ["auto"], "Extractors, or auto: all at hand."),
    "weights": texts("weights", [], "NAME=PATH of extractors' weights."),
    "metrics": texts("metrics", quick, f"Of {', '.join(measurement.SUBJECTS)}; all."),
    "sampler": flags.DEFINE_string("sampler", None, "The run's by default."),
    "steps": number("steps", None, "Of the sampler; the run's by default.", 1),
    "guidance": texts("guidance", None, "Scale; the run's by default."),
    "sweep": texts("sweep", [], "Guidance scales that are compared as well."),
    "sweep_num": number("sweep_num", 128, "Conditions at each of them.", 2),
    "utility_num": number(
      "utility_num", 0, "Synthetic training images; 0: as real.", 0
    ),
    "utility_steps": number("utility_steps", 300, "Updates of each classifier.", 2),
    "utility_fractions": texts(
      "utility_fractions", ["0.01", "0.1", "0.3", "1"], "Of the real training images."
    ),
    "reader_num": number("reader_num", 10, "Images a path for readers; 0: none.", 0),
    "batch_size": number("batch_size", 32, "Images a call.", 1),
    "checkpoint": number("checkpoint", None, "Step; the newest by default."),
    "ema_length": flags.DEFINE_float("ema_length", None, "Of averages of snapshots."),
    "elixr_models": flags.DEFINE_string("elixr_models", "", "SavedModels that judge."),
  }


def output_folder(path: str | os.PathLike, *, adopt: bool = False) -> pathlib.Path:
  """Makes or opens the folder of a comparison; see `artifacts.claim_folder`.

  Raises:
    errors.InputError: it holds other files, or cannot be written to.
  """
  folder = command.writable_folder(os.fspath(path))
  artifacts.claim_folder(folder, _OUTPUTS, adopt=adopt)
  return folder


def options(holders: Holders) -> path_assessment.Options:
  """Reads the flags.

  Raises:
    errors.InputError: values that cannot be read.
  """
  given = {name: holder.value for name, holder in holders.items()}
  known = (features.AUTO, *features.NAMES)
  unknown = [name for name in given["features"] if name not in known]
  if unknown or not given["features"]:
    raise errors.InputError(
      f"--features {','.join(unknown) or 'of no name'}", f"some of {', '.join(known)}"
    )
  changes = {
    "sampler": given["sampler"],
    "num_steps": given["steps"],
    "guidance": command.numbers("guidance", given["guidance"]),
  }
  return path_assessment.Options(
    split=given["split"],
    num=given["num"],
    seeds=_whole("seeds", given["seeds"]),
    features=tuple(given["features"]),
    weights=_pairs("weights", given["weights"]),
    subjects=subjects(given["metrics"]),
    changes={key: value for key, value in changes.items() if value is not None},
    batch_size=given["batch_size"],
    sweep=command.numbers("sweep", given["sweep"]),
    sweep_num=given["sweep_num"],
    utility_num=given["utility_num"],
    utility_steps=given["utility_steps"],
    utility_fractions=command.numbers("utility_fractions", given["utility_fractions"]),
    reader_num=given["reader_num"],
    elixr_models=given["elixr_models"],
  )


def subjects(names: Sequence[str]) -> tuple[str, ...]:
  """Reads --metrics.

  Raises:
    errors.InputError: an unknown one.
  """
  unknown = sorted({*names} - {*measurement.SUBJECTS, ALL})
  if unknown or not names:
    raise errors.InputError(
      f"--metrics {', '.join(unknown) or 'of no name'}",
      f"{ALL}, or some of {', '.join(measurement.SUBJECTS)}",
    )
  return tuple(x for x in measurement.SUBJECTS if ALL in names or x in names)


def _whole(name: str, texts: Sequence[str]) -> tuple[int, ...]:
  numbers = command.numbers(name, list(texts)) or ()
  whole = tuple(int(number) for number in numbers)
  if not whole or whole != numbers or len({*whole}) != len(whole) or min(whole) < 0:
    raise errors.InputError(f"--{name}={','.join(texts)}", "whole numbers, each once")
  return whole


def _pairs(name: str, texts: Sequence[str]) -> dict[str, str]:
  pairs = dict(text.partition("=")[::2] for text in texts)
  if not all(pairs.values()):
    raise errors.InputError(f"--{name}={','.join(texts)}", "NAME=PATH,NAME=PATH")
  return pairs
