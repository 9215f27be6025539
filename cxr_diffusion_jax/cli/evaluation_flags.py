"""Flags that `evaluate` and `compare` share: images, and how they are judged.

flags --define--> holders --options--> path_assessment.Options
"""

from collections.abc import Sequence
import dataclasses
import os
import pathlib
import typing

from absl import flags

from cxr_diffusion_jax import artifacts, errors
from cxr_diffusion_jax.cli import classifier_flags, command, flag_help, sample_flags
from cxr_diffusion_jax.evaluation import measurement

if typing.TYPE_CHECKING:
  from cxr_diffusion_jax.evaluation import metric as metric_lib
  from cxr_diffusion_jax.evaluation.comparison import path_assessment
  from cxr_diffusion_jax.evaluation.comparison import paths as paths_lib

Holders = dict[str, flags.FlagHolder]

# These train classifiers or need embeddings, which takes minutes.
SLOW = ("utility", "embeddings")

# What `evaluate` and `compare` write to a folder.
_OUTPUTS = (
  "figures",
  "generated",
  "metrics.json",
  "primary.json",
  "probe",
  "reader_study",
  "report.html",
  "table.csv",
  "table.md",
)

# Attribute these flags to the main that defines them.
flags.disclaim_key_flags()


def define() -> Holders:
  """Defines the flags."""
  return {
    **_define_images(),
    **sample_flags.places(),
    **sample_flags.settings(),
    **_define_metrics(),
    **_define_memorisation(),
    **_define_guidance(),
    **classifier_flags.define(),
  }


def _define_images() -> Holders:
  texts, number = flags.DEFINE_list, flags.DEFINE_integer
  with flag_help.group("Images"):
    return {
      "split": flags.DEFINE_string("split", "test", "Split to take conditions from."),
      "num": number("num", None, "Number of conditions; half the split by default.", 1),
      "per_patient": number(
        "per_patient", 1, "Conditions of one patient at most; 0 for all images.", 0
      ),
      "seeds": texts("seeds", ["0"], "Seeds of the noise."),
      "batch_size": number("batch_size", 32, "Images generated at a time.", 1),
      "shard": flags.DEFINE_string(
        "shard",
        "0/1",
        "P/N: only generate share P of N of the images, beside other processes; a call"
        " without it judges them.",
      ),
      "checkpoint": sample_flags.checkpoint(),
      "ema_length": flags.DEFINE_float(
        "ema_length", None, "Length of the parameters' average, made of snapshots."
      ),
    }


def _define_metrics() -> Holders:
  texts, number = flags.DEFINE_list, flags.DEFINE_integer
  quick = [name for name in measurement.SUBJECTS if name not in SLOW]
  with flag_help.group("Metrics"):
    return {
      "metrics": texts(
        "metrics",
        quick,
        f"Some of {', '.join(measurement.SUBJECTS)}; names of single metrics, such as"
        " frechet_distance; or all.",
      ),
      "primary": flags.DEFINE_string(
        "primary",
        "frechet_distance",
        "The figure to rank by, named before the run: METRIC or METRIC:JUDGE, such as"
        " auroc:probe. All others are marked exploratory.",
      ),
      "features": texts(
        "features",
        ["auto"],
        "Feature extractors: probe, rad_dino, clip, elixr_c, inception, densenet; or"
        " auto for all that are available.",
      ),
      "weights": texts(
        "weights", [], "NAME=PATH of extractors' weights; densenet judges findings too."
      ),
      "classifiers": texts(
        "classifiers",
        [],
        "NAME.onnx or NAME.safetensors of classifiers that judge findings, with"
        " NAME.json next to each.",
      ),
      "segmenter": flags.DEFINE_string(
        "segmenter",
        "",
        "NAME.onnx of a segmenter of heart and lungs, with NAME.json next to it.",
      ),
      "reidentification": flags.DEFINE_string(
        "reidentification",
        "",
        "NAME.onnx of a network whose embedding recognises patients, with NAME.json"
        " next to it.",
      ),
      "elixr_models": flags.DEFINE_string(
        "elixr_models", "", "Folder or hub id of ELIXR's SavedModels, as a judge."
      ),
      "reader_num": number(
        "reader_num", 10, "Images of each path for a reader study; 0 for none.", 0
      ),
    }


def _define_memorisation() -> Holders:
  with flag_help.group("Memorisation"):
    return {
      "memorisation_num": flags.DEFINE_integer(
        "memorisation_num",
        64,
        "Conditions of training images, each of another patient; two images of each are"
        " searched for copies, and losses of 8 times as many patients are compared. 0"
        " for none.",
        0,
      ),
      "memorisation_reference": flags.DEFINE_string(
        "memorisation_reference",
        "",
        "RUN or RUN@STEP, such as an early checkpoint, whose losses are subtracted.",
      ),
    }


def _define_guidance() -> Holders:
  texts, number = flags.DEFINE_list, flags.DEFINE_integer
  with flag_help.group("Sweep of guidance"):
    return {
      "sweep": texts(
        "sweep",
        [],
        "Guidance scales, such as 1,1.5,2,3: each path is evaluated at its best by the"
        " primary figure, chosen on validation conditions.",
      ),
      "sweep_num": number(
        "sweep_num", 128, "Validation conditions at each scale, at most.", 2
      ),
    }


def make_share(
  paths: "Sequence[paths_lib.ConditioningPath]",
  options: "path_assessment.Options",
  holders: Holders,
) -> bool:
  """Generates a share of the images, if `--shard` asks for one; returns whether.

  Raises:
    errors.InputError: not P/N.
  """
  from cxr_diffusion_jax.evaluation.comparison import image_shares

  share = sample_flags.shard(holders["shard"].value)
  if share[1] == 1:
    return False
  total = image_shares.make(paths, options, share, command.progress)
  print(
    f"share {share[0]} of {share[1]} of {total:,} images is made: when the others are"
    " done, the same command without --shard judges them"
  )
  return True


def which(holders: Holders) -> artifacts.Json:
  """Reads which checkpoint of a run is meant, and where its data are."""
  return {
    name: holders[name].value
    for name in ("checkpoint", "ema_length", "data_root", "records_dir", "encoder")
  }


def output_folder(path: str | os.PathLike, *, adopt: bool = False) -> pathlib.Path:
  """Makes or opens the folder of a comparison; see `artifacts.claim_folder`.

  Raises:
    errors.InputError: it holds other files, or cannot be written to.
  """
  folder = command.writable_folder(os.fspath(path), "--out")
  artifacts.claim_folder(folder, _OUTPUTS, adopt=adopt)
  return folder


def options(holders: Holders) -> "path_assessment.Options":
  """Reads the flags.

  Raises:
    errors.InputError: a value that cannot be read.
  """
  from cxr_diffusion_jax.encoders.extractors import opening as features
  from cxr_diffusion_jax.evaluation.comparison import path_assessment

  given = sample_flags.values(holders)
  known = (features.AUTO, *features.NAMES)
  unknown = [name for name in given["features"] if name not in known]
  if unknown or not given["features"]:
    raise errors.InputError(
      f"--features {','.join(unknown) or '(none)'}", f"some of {', '.join(known)}"
    )
  names = {field.name for field in dataclasses.fields(path_assessment.Options)}
  fractions = command.numbers("utility_fractions", given["utility_fractions"])
  parsed: artifacts.Json = {
    "primary": given["primary"],
    "seeds": _whole("seeds", given["seeds"]),
    "features": tuple(given["features"]),
    "weights": _pairs("weights", given["weights"]),
    "classifiers": tuple(given["classifiers"]),
    "metrics": _metrics(given["metrics"]),
    "changes": sample_flags.changes(holders),
    "sweep": _sweep(given["sweep"], given["sweep_num"], _primary(given["primary"])),
    "utility_fractions": fractions or (),
    "utility_ratios": _whole("utility_ratios", given["utility_ratios"]),
  }
  plain = {name: value for name, value in given.items() if name in names}
  return path_assessment.Options(**{**plain, **parsed})


def _metrics(names: Sequence[str]) -> tuple[str, ...]:
  from cxr_diffusion_jax.evaluation import metric

  try:
    metric.select(names)
  except errors.InputError as error:
    raise errors.InputError(f"--{error}") from error
  return tuple(names)


def _primary(text: str) -> "metric_lib.Metric":
  from cxr_diffusion_jax.evaluation import metric as metric_lib

  try:
    (record,) = metric_lib.select([text.partition(":")[0]])
  except (errors.InputError, ValueError) as error:
    raise errors.InputError(
      f"--primary={text}", "the name of one metric, or METRIC:JUDGE"
    ) from error
  if not record.direction:
    raise errors.InputError(
      f"--primary={text}", "a figure of which lower or higher is better"
    )
  return record


def _sweep(
  texts: Sequence[str], num: int, primary: "metric_lib.Metric"
) -> tuple[float, ...]:
  scales = command.numbers("sweep", list(texts)) or ()
  if scales and num < primary.minimum_n:
    raise errors.InputError(
      f"--sweep_num={num} with --primary={primary.name}",
      f"{primary.minimum_n} or more, as guidance is chosen by a figure that is"
      " undefined for fewer images",
    )
  return scales


def _whole(name: str, texts: Sequence[str]) -> tuple[int, ...]:
  numbers = command.numbers(name, list(texts)) or ()
  whole = tuple(int(number) for number in numbers)
  if not whole or whole != numbers or len({*whole}) != len(whole) or min(whole) < 0:
    raise errors.InputError(f"--{name}={','.join(texts)}", "whole numbers, each once")
  return whole


def _pairs(name: str, texts: Sequence[str]) -> dict[str, str]:
  parts = [text.partition("=") for text in texts]
  pairs = {name: path for name, _, path in parts}
  if not all(pairs.values()):
    raise errors.InputError(f"--{name}={','.join(texts)}", "NAME=PATH,NAME=PATH")
  return pairs
