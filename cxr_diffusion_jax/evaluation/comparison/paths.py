"""Groups runs by conditioning path, and reports what makes paths unequal.

workdirs --open_run--> runs --config without seed--> ConditioningPath(name, runs)
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
import dataclasses
import json
import pathlib

import numpy as np

from cxr_diffusion_jax import artifacts, errors
from cxr_diffusion_jax.data.image_sets.image_set import ImageSet
from cxr_diffusion_jax.evaluation.eval_context import EvalContext
from cxr_diffusion_jax.evaluation.judges import adherence
from cxr_diffusion_jax.evaluation.measurement import Key
from cxr_diffusion_jax.run import compatibility
from cxr_diffusion_jax.run import run as run_lib

# Config keys that may differ between runs of one path: where and how they ran. How they
# are sampled may not, although one run may change it at any time.
FREE = (
  *(
    key
    for key in compatibility.MAY_CHANGE
    if key not in ("codec.folder", "sample.", "train.num_steps")
  ),
  "sample.num_images",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConditioningPath:
  """Runs that differ only in their seed.

  Attributes:
    name: of the conditioning path; where several have one, with its reference; where
      that is the same too, of the first run's folder.
  """

  name: str
  runs: Sequence[run_lib.Run]
  config: artifacts.JsonMapping

  @property
  def reconstructs(self) -> bool:
    """Whether conditions are made from the very images that are to be generated."""
    needs = self.runs[0].needs
    return needs.reference == "self" and bool(needs.reference_columns)

  @property
  def encoders(self) -> set[str]:
    """Beginnings of the names of judges whose network the condition comes from."""
    run = self.runs[0]
    columns = {**run.card.columns, **run.card.targets}
    names = {spec.encoder for spec in run.needs.specs}
    names |= {"elixr" if "elixr" in name else name for name in run.card.targets}
    # The stand-in of ELIXR is made from the stand-in CLIP: both are one network.
    standin = any(column.standin for column in columns.values())
    return names | ({"clip", "elixr"} if standin else set())

  @property
  def steps(self) -> list[int]:
    """Steps of the runs' checkpoints, without repeats."""
    return sorted({run.checkpoint_step for run in self.runs})


def open_paths(
  workdirs: Sequence[pathlib.Path],
  *,
  checkpoint: int | str = "best",
  ema_length: float | None = None,
  data_root: str = "",
  records_dir: str = "",
  encoder: str = "",
) -> list[ConditioningPath]:
  """Opens runs, and groups those that differ in their seed alone.

  `data_root`, `records_dir` and `encoder` give their present locations; "" for those
  stored in each run.

  Returns:
    Paths in the order of their first run.

  Raises:
    errors.InputError: no run, a folder named twice, or runs on other records.
  """
  places = [workdir.resolve() for workdir in workdirs]
  if len(set(places)) != len(places):
    raise errors.InputError("one run named twice", "different folders")
  runs = [
    run_lib.open_run(
      workdir,
      checkpoint=checkpoint,
      ema_length=ema_length,
      data_root=data_root,
      records_dir=records_dir,
      encoder=encoder,
    )
    for workdir in workdirs
  ]
  prints = {run.card.fingerprint for run in runs}
  if len(prints) > 1:
    raise errors.InputError(
      f"runs on {len(prints)} different sets of records",
      "runs on the same images, splits and size",
    )
  groups: dict[str, list[run_lib.Run]] = {}
  for run in runs:
    groups.setdefault(_recipe(run.config), []).append(run)
  paths = [
    ConditioningPath(name=name, runs=tuple(of_path), config=of_path[0].config)
    for name, of_path in zip(_names(groups.values()), groups.values(), strict=True)
  ]
  if len({path.name for path in paths}) != len(paths):
    raise errors.InputError("two runs of one name", "folders of different names")
  return paths


def _names(groups: Iterable[Sequence[run_lib.Run]]) -> list[str]:
  """The shortest of the names of each path that no other path has."""
  candidates = []
  for first, *_ in groups:
    section = first.config["conditioning"]
    reference = f"{section['name']}-{section.get('reference', '')}"
    candidates.append((section["name"], reference, first.folder.name))
  levels = list(zip(*candidates, strict=True))
  names = []
  for own in candidates:
    pairs = zip(own, levels, strict=True)
    unique = [name for name, of_all in pairs if of_all.count(name) == 1]
    names.append(unique[0] if unique else own[-1])
  return names


def asking_otherwise(
  paths: Sequence[ConditioningPath], context: EvalContext
) -> frozenset[str]:
  """Paths whose conditions ask for other findings than those of the other paths."""
  # Labels alone are read: no judge is opened for them.
  context = dataclasses.replace(context, judges_of=None)
  asked = {
    path.name: _findings(context.of_run(path.runs[0]).conditions) for path in paths
  }
  usual = _findings(context.conditions).tobytes()
  if usual not in {labels.tobytes() for labels in asked.values()}:
    usual = next(iter(asked.values())).tobytes()
  return frozenset(name for name, labels in asked.items() if labels.tobytes() != usual)


def unranked(
  paths: Sequence[ConditioningPath],
  key: Key,
  *,
  otherwise: Collection[str] = (),
) -> dict[str, str]:
  """Path -> why a figure does not rank it, for a figure of several paths.

  Figures of findings rank no path of `otherwise`, see `asking_otherwise`: means are
  over other findings, and average precision depends on how often each is asked for.
  A path whose condition is made from the image itself reconstructs it: it is ranked
  only where all paths do. The features and judges of an encoder rank no path that is
  conditioned on it, or was trained to have its features: what both cannot see is not
  counted, and what both see counts twice.
  """
  own = {path.name: path.reconstructs for path in paths}
  reasons = {}
  if key[1] in adherence.NAMES or key[3].startswith("finding: "):
    reasons = dict.fromkeys(otherwise, "other findings were asked for")
  if not all(own.values()):
    reasons |= {
      name: "reconstruction: its condition is made from the image itself"
      for name, reconstructs in own.items()
      if reconstructs
    }
  judge = key[2].casefold()
  for path in paths:
    for encoder in path.encoders:
      if judge.startswith(encoder):
        reasons[path.name] = f"circular: judged by {encoder}, its own encoder"
  return reasons


def differing(
  configs: Mapping[str, artifacts.JsonMapping],
) -> dict[str, dict[str, str]]:
  """Config keys that differ between paths, those of the condition included."""
  flats = {name: compatibility.flatten(config) for name, config in configs.items()}
  keys = sorted(set().union(*flats.values()))
  return {
    key: {name: repr(flat.get(key, "not set")) for name, flat in flats.items()}
    for key in keys
    if not key.startswith(FREE)
    and len({repr(flat.get(key, "not set")) for flat in flats.values()}) > 1
  }


def warnings(paths: Sequence[ConditioningPath]) -> list[str]:
  """Sentences on what makes a comparison unequal or weak."""
  sentences = []
  unequal = [
    key
    for key in differing({path.name: path.config for path in paths})
    if not key.startswith("conditioning.")
  ]
  if unequal:
    sentences.append(f"Not an equal comparison: these differ: {', '.join(unequal)}.")
  steps = {path.name: path.steps for path in paths}
  chosen = {run.choice for path in paths for run in path.runs}
  distinct = {step for of_path in steps.values() for step in of_path}
  if chosen != {"best"} and len(distinct) > 1:
    shown = ", ".join(
      f"{name} {' and '.join(map(str, of_path))}" for name, of_path in steps.items()
    )
    sentences.append(
      f"Not an equal comparison: checkpoints of different steps: {shown}."
    )
  counts = {len(path.runs) for path in paths}
  seeds = [sorted(run.seed for run in path.runs) for path in paths]
  if len(counts) > 1:
    sentences.append(
      "Not an equal comparison: paths have different numbers of training runs."
    )
  elif any(one != seeds[0] for one in seeds):
    sentences.append("Training seeds differ between paths.")
  if counts == {1}:
    sentences.append(
      "A path has a single training run: the variance of training seeds is unknown and"
      " not part of its intervals."
    )
  elif min(counts) == 1:
    sentences.append(
      "A path has a single training run: the variance of training seeds in its"
      " intervals is that of the paths it is ranked with."
    )
  images = [path.name for path in paths if path.reconstructs]
  if images and len(paths) > 1:
    sentences.append(
      "Reconstruction: the condition is made from the image that is to be generated"
      f" ({', '.join(images)}). These paths are not ranked with others; train them with"
      " config.conditioning.reference=same_findings or same_patient to compare them."
    )
  drops = {path.name: path.config["conditioning"].get("drop_rate") for path in paths}
  if len(set(map(repr, drops.values()))) > 1:
    shown = ", ".join(f"{name} {rate}" for name, rate in drops.items())
    sentences.append(f"Rates of dropping the condition differ: {shown}.")
  lengths = {
    run.ema_length for path in paths for run in path.runs if run.ema_length is not None
  }
  if lengths:
    sentences.append(f"Averages of EMA length {', '.join(map(str, sorted(lengths)))}.")
  return sentences


def _findings(images: ImageSet) -> np.ndarray:
  return np.asarray(images.labels["findings"], np.float32)


def _recipe(config: artifacts.JsonMapping) -> str:
  """Everything in a config that distinguishes runs, except their seed."""
  kept = {
    key: value
    for key, value in compatibility.flatten(config).items()
    if key != "seed" and not key.startswith(FREE)
  }
  return json.dumps(kept, sort_keys=True, default=repr)
