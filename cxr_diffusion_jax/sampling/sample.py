"""Samples of a trained run.

WORKDIR -> Run(experiment, parameters, records) + Conditions -> Samples -> PNG, JSON
"""

from collections.abc import Mapping, Sequence
import dataclasses
import pathlib
from typing import Any

import jax
import numpy as np

from cxr_diffusion_jax import types
from cxr_diffusion_jax.parallel import sharding
from cxr_diffusion_jax.run import checkpoints, compatibility, snapshots
from cxr_diffusion_jax.run import dataset as dataset_lib
from cxr_diffusion_jax.run import files as run_files
from cxr_diffusion_jax.run import recipe as experiment_lib
from cxr_diffusion_jax.sampling import generate as generate_lib
from cxr_diffusion_jax.sampling import image_to_image
from cxr_diffusion_jax.sampling.request import Conditions
from cxr_diffusion_jax.training import step as step_lib


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
  """A trained run, read back.

  Attributes:
    workdir: its folder.
    experiment: built from its own config.
    dataset: its records and columns.
    objective: with its codec.
    ema_params: what is sampled from.
    checkpoint_step: of which step they are.
    ema_length: of an average made after training; None for the run's own.
  """

  workdir: pathlib.Path
  experiment: experiment_lib.Experiment
  dataset: dataset_lib.Dataset
  objective: step_lib.Objective
  ema_params: types.Params
  checkpoint_step: int
  ema_length: float | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Samples:
  """Images and where they come from; row i of everything belongs together.

  Attributes:
    images: uint8 [n h w 1].
    references: uint8 [n h w 1], the image that each condition is of; None for none.
    entries: seed, number and condition of each.
    names: of each one's condition, fit for a file name.
    settings: sampler, steps, guidance, checkpoint.
    title: one line for pictures.
    per_condition: consecutive rows that share a condition.
  """

  images: np.ndarray
  references: np.ndarray | None
  entries: Sequence[Mapping[str, Any]]
  names: Sequence[str]
  settings: Mapping[str, Any]
  title: str
  per_condition: int


def open_run(
  workdir: pathlib.Path,
  *,
  checkpoint_step: int | None = None,
  ema_length: float | None = None,
) -> Run:
  """Reads a run's config, data and averaged parameters.

  Args:
    workdir: the run's folder.
    checkpoint_step: of the parameters; the newest if None.
    ema_length: of an average made of the run's snapshots; None for the run's own.

  Raises:
    errors.InputError: no run or no checkpoint there, or its records have changed.
  """
  config, described = run_files.read(workdir)
  # The run may have been trained on more devices than there are here.
  config["parallel"] = {"data": -1, "fsdp": 1, "tensor": 1, "num_devices": 0}
  accumulation = config["optimizer"]["accumulation"]
  config["train"]["batch_size"] = jax.device_count() * accumulation
  # Only training pulls features, and reads columns to pull them to.
  config.pop("repa", None)
  experiment = experiment_lib.build(config)
  ema_params, step = read_params(workdir, experiment, checkpoint_step, ema_length)
  dataset = dataset_lib.prepare(experiment.data, experiment.conditioner.needs)
  compatibility.check_data(described, dataset.description, experiment.autoencoder)
  return Run(
    workdir=workdir,
    experiment=experiment,
    dataset=dataset,
    objective=experiment.make_objective(experiment.make_codec(described["statistics"])),
    ema_params=ema_params,
    checkpoint_step=step,
    ema_length=ema_length,
  )


def read_params(
  workdir: pathlib.Path,
  experiment: experiment_lib.Experiment,
  checkpoint_step: int | None = None,
  ema_length: float | None = None,
) -> tuple[types.Params, int]:
  """Reads averaged parameters, the newest by default, and their step.

  They are a checkpoint's or, with `ema_length`, made of snapshots.

  Raises:
    errors.InputError: there is no such checkpoint, or there are no such snapshots.
  """
  shapes = jax.eval_shape(experiment.init_fn, jax.random.key(0))
  like = jax.tree.map(
    lambda shape, place: jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=place),
    shapes,
    sharding.state_shardings(shapes, experiment.mesh),
  )
  if ema_length is not None:
    lengths = experiment.train.power_ema
    return snapshots.reconstruct(workdir, lengths, ema_length, like, checkpoint_step)
  with checkpoints.open_manager(workdir, read_only=True) as manager:
    params = checkpoints.restore_ema(manager, like, checkpoint_step)
    step = manager.latest_step() if checkpoint_step is None else checkpoint_step
  return params, step


def sample(
  run: Run,
  conditions: Conditions,
  *,
  num: int,
  per_condition: int = 1,
  seed: int = 0,
  batch_size: int = 16,
  changes: Mapping[str, Any] | None = None,
  weak_step: int | None = None,
  plan: image_to_image.Plan | None = None,
  progress: types.Progress = types.no_progress,
) -> Samples:
  """Generates images for conditions.

  Args:
    run: what to sample from.
    conditions: taken in turn, again from the first after the last.
    num: images in all.
    per_condition: images of one condition, with different noise.
    seed: of the noise; image i's noise depends on the seed and i alone.
    batch_size: images a call.
    changes: of the run's own sample settings.
    weak_step: checkpoint that autoguidance leads away from, in place of the missing
      condition.
    plan: to begin at images, which the conditions' fields then hold too (`editing`).
    progress: told after each batch.

  Raises:
    errors.InputError: settings out of range, or no such checkpoint.
  """
  settings = dataclasses.replace(run.experiment.sample, **(changes or {}))
  draw, more = None, 0
  if plan is not None:
    settings = image_to_image.settings_of(settings, plan)
    draw = image_to_image.make_draw(run.objective, settings, plan)
    more = image_to_image.evaluations(settings, plan)
  generate = generate_lib.make_generate(
    run.objective, settings, run.experiment.latent_shape, run.experiment.mesh, draw
  )
  per_condition = min(per_condition, num)
  order = [number // per_condition % len(conditions) for number in range(num)]
  taken = conditions.take(order)
  images = generate_lib.generate_rows(
    generate,
    run.ema_params,
    taken.fields,
    generate_lib.sample_keys(seed, np.arange(num)),
    run.experiment.mesh,
    batch_size=batch_size,
    progress=progress,
    negative=conditions.negative,
    weak_params=weak_params(run, weak_step),
  )
  streams = run.experiment.conditioner.streams
  cost = generate_lib.evaluations(settings, len(streams), weak_step is not None)
  return Samples(
    images=images,
    references=taken.references,
    entries=[
      {"number": number, "seed": seed, **entry}
      for number, entry in enumerate(taken.entries)
    ],
    names=taken.names,
    settings=dataclasses.asdict(settings)
    | {
      "checkpoint_step": run.checkpoint_step,
      "ema_length": run.ema_length,
      "autoguidance_step": weak_step,
      "evaluations_per_image": cost + more,
    },
    title=title(run, settings, weak_step),
    per_condition=per_condition,
  )


def weak_params(run: Run, step: int | None) -> types.Params | None:
  """The averaged parameters of an earlier checkpoint, for autoguidance; None for none.

  Raises:
    errors.InputError: there is no such checkpoint.
  """
  return None if step is None else read_params(run.workdir, run.experiment, step)[0]


def title(
  run: Run,
  settings: generate_lib.SampleSettings,
  weak_step: int | None = None,
  varied: Sequence[str] = (),
) -> str:
  """One line that says what a picture is of.

  Args:
    run: of the images.
    settings: of the images.
    weak_step: of the checkpoint that autoguidance led away from.
    varied: what is not the same in all of the picture: 'sampler', 'steps', 'guidance'.
  """
  auto = "" if weak_step is None else f" away from step {weak_step}"
  told = {
    "sampler": settings.sampler,
    "steps": f"{settings.num_steps} steps",
    "guidance": f"guidance {settings.guidance_text}{auto}",
  }
  average = "" if run.ema_length is None else f" with EMA length {run.ema_length:g}"
  parts = [f"{run.workdir.name} at step {run.checkpoint_step}{average}"]
  parts += [text for name, text in told.items() if name not in varied]
  return ", ".join([*parts, run.dataset.kind])


def caption(entry: Mapping[str, Any]) -> str:
  """Two short lines that say what a condition is."""
  if "prompt" in entry:
    words = entry["prompt"].split()
    half = (len(words[:8]) + 1) // 2
    return " ".join(words[:half]) + "\n" + " ".join(words[half:8])
  if "findings" in entry:
    return "\n".join(entry["findings"][:2]) or "No Finding"
  if "unconditional" in entry:
    return "no condition"
  told = [str(entry[key]) for key in ("age", "sex", "view") if key in entry]
  if "reference" in entry:
    told = [pathlib.PurePath(entry["reference"]).name]
  return "\n".join(told)
