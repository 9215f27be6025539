"""Trains a model, or goes on training it.

python -m cxr_diffusion_jax.main --config configs/elixr_c.py --workdir runs/elixr_c
"""

import contextlib
import pathlib

from absl import flags, logging
import jax
from ml_collections import config_flags

from cxr_diffusion_jax import command, errors
from cxr_diffusion_jax.evaluation import reconstruction
from cxr_diffusion_jax.preparation import dataset as dataset_lib
from cxr_diffusion_jax.training import compatibility, loop, preview
from cxr_diffusion_jax.training import experiment as experiment_lib
from cxr_diffusion_jax.training import step as step_lib

_CONFIG = config_flags.DEFINE_config_file("config", None, "Config file, with :size.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run.")
_DISTRIBUTED = flags.DEFINE_bool("distributed", False, "Join the other hosts first.")
flags.mark_flags_as_required(["config", "workdir"])


def main() -> None:
  """Builds the experiment, prepares its data, trains it, and says how it ended."""
  command.initialize_distributed(_DISTRIBUTED.value)
  experiment = experiment_lib.build(_CONFIG.value)
  workdir = command.writable_folder(_WORKDIR.value)
  loop.check_resumable(workdir, experiment.config, experiment.autoencoder)
  # A network that cannot be built is told before the data are prepared.
  shapes = jax.eval_shape(
    experiment.init_fn, step_lib.stream_key(experiment.seed, step_lib.INIT_STREAM)
  )
  dataset = dataset_lib.prepare(
    experiment.data,
    experiment.conditioner.needs,
    targets=experiment.targets,
    autoencoder=experiment.autoencoder,
    progress=command.progress,
  )
  logging.info("data: %s", dataset.summary())
  # Imports tensorflow, which takes seconds: not before wrong input had its say.
  from clu import asynclib, metric_writers, parameter_overview, periodic_actions

  overview = parameter_overview.get_parameter_overview(shapes, include_stats=False)
  if jax.process_index() == 0:
    (workdir / "parameters.txt").write_text(overview + "\n")
  logging.info(
    "denoiser: %s parameters, listed in parameters.txt",
    f"{parameter_overview.count_parameters(shapes):,}",
  )
  reconstruction.write(experiment, dataset, workdir)
  writer = metric_writers.create_default_writer(
    workdir, just_logging=jax.process_index() > 0
  )
  with _closing(writer, asynclib.AsyncError, workdir):
    writer.write_hparams(compatibility.flatten(experiment.config))
    outcome = loop.train(
      experiment,
      dataset,
      workdir,
      writer=writer,
      actions=_actions(periodic_actions, experiment, writer, workdir),
      show=preview.make_show(experiment, dataset, workdir, writer),
    )
  step = int(outcome.state.step)
  if outcome.reason == "interrupted":
    print(f"interrupted: saved at step {step}; repeat the same command to go on")
  else:
    best = f"{outcome.history.best_loss:.4f} at step {outcome.history.best_step}"
    print(f"{outcome.reason} at step {step}; best validation loss {best}")


@contextlib.contextmanager
def _closing(writer, error_class: type[Exception], workdir: pathlib.Path):
  """Closes a writer whatever happens: what it was told before explains an error."""
  try:
    with contextlib.closing(writer):
      yield
  except error_class as error:
    if isinstance(error.__context__, errors.InputError):
      # Closing failed too; what came first is what is told.
      raise error.__context__ from error
    raise errors.InputError(
      f"TensorBoard's events could not be written to {workdir}"
      f" ({str(error).split(';')[-1].split('[')[0].strip()})",
      fix="make room, then repeat the command",
    ) from error


def _actions(periodic_actions, experiment, writer, workdir) -> list:
  train = experiment.train
  actions = [
    periodic_actions.ReportProgress(
      num_train_steps=train.num_steps, writer=writer, every_secs=20
    )
  ]
  if train.profile_steps:
    actions.append(
      periodic_actions.Profile(
        logdir=str(workdir), num_profile_steps=train.profile_steps
      )
    )
  return actions


if __name__ == "__main__":
  command.run(main)
