"""Where a run starts: at its newest checkpoint, at another run's weights, or fresh.

WORKDIR/checkpoints --check_resumable, start--> (state, history)
config.train.init_from --check_initial, start--> the other run's averaged parameters
"""

import dataclasses

from absl import logging
from etils import epath
import jax
from jax.experimental import multihost_utils
import jax.numpy as jnp

from cxr_diffusion_jax import artifacts, errors, types
from cxr_diffusion_jax.conditioning import base as conditioning
from cxr_diffusion_jax.encoders import opening as encoders
from cxr_diffusion_jax.encoders.latents import autoencoders
from cxr_diffusion_jax.run import card as card_lib
from cxr_diffusion_jax.run import checkpoints, compatibility, set_aside
from cxr_diffusion_jax.run import state as state_lib
from cxr_diffusion_jax.training import compiled as programs_lib
from cxr_diffusion_jax.training import experiment as experiment_lib


def check_resumable(
  workdir: artifacts.PathLike,
  config: artifacts.JsonMapping,
  autoencoder: autoencoders.Autoencoder | None = None,
  needs: conditioning.Needs | None = None,
  targets: conditioning.Needs | None = None,
  from_step: int | None = None,
) -> bool:
  """Refuses to resume a different run, before any data is prepared.

  A newest checkpoint that is damaged is set aside if an older one is whole.

  Args:
    targets: needs of the columns that training compares with, if any.
    from_step: checkpoint to go on from, with other rates if the config says so; later
      ones are set aside. None for the newest, with its rates.

  Returns:
    Whether there is a checkpoint to resume from.

  Raises:
    errors.InputError: the checkpoints in the folder belong to another config, another
      autoencoder's latents, or another encoder's columns; none is whole; or there is
      no checkpoint `from_step`.
  """
  folder = epath.Path(workdir) / "checkpoints"
  if jax.process_index() == 0:
    if from_step is not None:
      flat = compatibility.flatten(config)
      rates = {key: flat[key] for key in compatibility.RATES}
      set_aside.set_later_aside(workdir, from_step, rates)
    set_aside.set_damaged_aside(folder)
  multihost_utils.sync_global_devices("damaged checkpoints are set aside")
  if not folder.exists():
    return False
  with checkpoints.open_manager(workdir, read_only=True) as manager:
    step = manager.latest_step()
    if step is not None:
      saved = _saved(manager, step)
      compatibility.check_config(
        saved["config"], config, str(workdir), rates=from_step is not None
      )
      card = card_lib.from_json(saved["data"], saved["config"])
      compatibility.check_autoencoder(card, autoencoder)
      standin = epath.Path(workdir) / encoders.STANDIN_CLIP
      for section, columns, own in (
        ("conditioning", card.columns, needs),
        ("repa", card.targets, targets),
      ):
        old, new = (
          values.get(section, {}).get("encoder") for values in (saved["config"], config)
        )
        for spec in own.specs if own and old != new else ():
          if spec.name in columns:
            encoders.open_encoder(spec, columns[spec.name], [standin])
  return step is not None


def start(
  config: artifacts.JsonMapping,
  programs: programs_lib.Programs,
  manager: checkpoints.Manager,
  card: card_lib.DatasetCard,
) -> tuple[state_lib.TrainState, artifacts.Json]:
  """Returns the first state and its history of validations.

  Raises:
    errors.InputError: the checkpoints belong to another config or other data.
  """
  step = manager.latest_step()
  if step is not None:
    saved = _saved(manager, step)
    history = saved["history"]
    for line in compatibility.check_config(saved["config"], config, rates=True):
      logging.info("%s", line)
      if line.split(":")[0].removeprefix("config.") in compatibility.RATES:
        history.setdefault("changes", []).append(f"from step {step + 1}: {line}")
    compatibility.check_data(card_lib.from_json(saved["data"], saved["config"]), card)
    state, _ = checkpoints.restore(manager, programs.like())
    logging.info("resuming from checkpoints/%d", step)
    return state, history
  state = programs.init()
  folder = config["train"].get("init_from")
  if folder:
    with checkpoints.open_manager(folder, read_only=True) as other:
      step = checkpoints.find_step(other, checkpoints.NEWEST)
      params = checkpoints.restore_ema(other, programs.like().ema_params, step)
      logging.info("starting from the weights of %s at %d", folder, step)
    state = dataclasses.replace(
      state,
      params=params,
      # Copy, because the state is donated and a buffer cannot be donated twice.
      ema_params=jax.tree.map(jnp.copy, params),
      power_ema=tuple(jax.tree.map(jnp.copy, params) for _ in state.power_ema),
    )
  return state, {}


def check_initial(experiment: experiment_lib.Experiment, shapes: types.Params) -> None:
  """Refuses initial weights that do not fit, before any data is prepared.

  Raises:
    errors.InputError: no such folder, no checkpoint in it, or different parameters.
  """
  if experiment.pretrained is not None:
    experiment.pretrained.check()
  folder = experiment.train.init_from
  if not folder:
    return
  card_lib.read(folder)
  with checkpoints.open_manager(folder, read_only=True) as manager:
    there = checkpoints.ema_shapes(manager)
  here = checkpoints.named_shapes(shapes)
  differing = [
    f"{name} ({there.get(name, 'absent')} there, {here.get(name, 'absent')} here)"
    for name in sorted(here.keys() | there.keys())
    if here.get(name) != there.get(name)
  ]
  if differing:
    more = f" and {len(differing) - 3} more" if len(differing) > 3 else ""
    raise errors.InputError(
      f"config.train.init_from={folder} has other parameters:"
      f" {'; '.join(differing[:3])}{more}",
      "a run of the same network and condition",
    )


def _saved(manager: checkpoints.Manager, step: int) -> artifacts.Json:
  """Config, card and history of a checkpoint."""
  saved = checkpoints.restore_run(manager, step)
  card_lib.check_format(f"checkpoint {step} in {manager.directory}", saved)
  return saved
