"""Trains a model, or resumes an unfinished run.

python -m cxr_diffusion_jax.main --config configs/elixr_c.py --workdir runs/elixr_c
"""

from absl import flags, logging

from cxr_diffusion_jax.cli import (
  command,
  configs,
  flag_help,
  host_flags,
  metrics_logger,
  terminal,
)

with flag_help.group("Run"):
  _CONFIG = configs.define()
  _WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run.", required=True)
  _FROM_STEP = configs.define_from_step()
  _HOSTS = host_flags.define()


def main() -> None:
  """Trains, on one host or several."""
  terminal.announce_compiling()
  with host_flags.joined(_HOSTS):
    _train()


def _train() -> None:
  """Builds the experiment, prepares its data and trains it."""
  import jax

  from cxr_diffusion_jax.evaluation.metrics import reconstruction
  from cxr_diffusion_jax.parallel import agreement
  from cxr_diffusion_jax.planning import mesh_choice
  from cxr_diffusion_jax.run import compatibility, locks
  from cxr_diffusion_jax.run import dataset as dataset_lib
  from cxr_diffusion_jax.run import denoiser as denoiser_lib
  from cxr_diffusion_jax.sampling import sample as sampling
  from cxr_diffusion_jax.training import denoiser_trainer, loop, start
  from cxr_diffusion_jax.training import experiment as experiment_lib

  experiment = experiment_lib.build(mesh_choice.settle(_CONFIG.value))
  compatibility.check_hosts(experiment.config)
  workdir = command.workdir(_WORKDIR.value)
  agreement.check_shared(workdir)
  with locks.hold(workdir):
    resumed = start.check_resumable(
      workdir,
      experiment.config,
      experiment.autoencoder,
      experiment.recipe.conditioner.needs,
      experiment.targets,
      _FROM_STEP.value,
    )
    # Fail on a network that cannot be built before preparing the data.
    shapes = jax.eval_shape(
      experiment.recipe.init_fn,
      denoiser_lib.stream_key(experiment.seed, denoiser_lib.INIT_STREAM),
    )
    if not resumed:
      start.check_initial(experiment, shapes)
    dataset = dataset_lib.prepare(
      experiment.data,
      experiment.recipe.conditioner.needs,
      targets=experiment.targets,
      autoencoder=experiment.autoencoder,
      progress=command.progress,
    )
    compatibility.check_hosts_data(dataset.card)
    logging.info("data: %s", dataset.summary())
    metrics_logger.list_parameters(workdir, "denoiser", shapes)
    reconstruction.write(experiment, dataset, workdir)
    with metrics_logger.opened(
      workdir,
      compatibility.flatten(experiment.config),
      num_steps=experiment.train.num_steps,
      profile_steps=experiment.train.profile_steps,
    ) as (writer, actions):
      show = sampling.make_show(experiment.recipe, dataset, experiment.seed)
      trainer = denoiser_trainer.make(experiment, dataset, show)
      outcome = loop.train(trainer, workdir, writer=writer, actions=actions)
  outcome.check_complete()
  best = f"{outcome.history.best_loss:.4f} at step {outcome.history.best_step}"
  print(f"{outcome.reason} at step {outcome.step}; best validation loss {best}")


if __name__ == "__main__":
  command.run(main)
