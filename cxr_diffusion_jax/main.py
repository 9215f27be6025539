"""Trains a model, or goes on training it.

python -m cxr_diffusion_jax.main --config configs/elixr_c.py --workdir runs/elixr_c
"""

from absl import flags, logging
import jax
from ml_collections import config_flags

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.cli import command, metrics_logger
from cxr_diffusion_jax.evaluation.metrics import reconstruction
from cxr_diffusion_jax.parallel import distributed
from cxr_diffusion_jax.run import compatibility
from cxr_diffusion_jax.run import dataset as dataset_lib
from cxr_diffusion_jax.run import recipe as experiment_lib
from cxr_diffusion_jax.training import loop, preview
from cxr_diffusion_jax.training import step as step_lib

_CONFIG = config_flags.DEFINE_config_file("config", None, "Config file, with :size.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run.")
_DISTRIBUTED = flags.DEFINE_bool("distributed", False, "Join the other hosts first.")
flags.mark_flags_as_required(["config", "workdir"])


def main() -> None:
  """Builds the experiment, prepares its data, trains it, and says how it ended."""
  distributed.initialize(_DISTRIBUTED.value)
  experiment = experiment_lib.build(_CONFIG.value)
  workdir = command.writable_folder(_WORKDIR.value)
  resumed = loop.check_resumable(workdir, experiment.config, experiment.autoencoder)
  if experiment.pretrained is not None and not resumed:
    experiment.pretrained.check()
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
  metrics_logger.list_parameters(workdir, "denoiser", shapes)
  reconstruction.write(experiment, dataset, workdir)
  with metrics_logger.opened(
    workdir,
    compatibility.flatten(experiment.config),
    num_steps=experiment.train.num_steps,
    profile_steps=experiment.train.profile_steps,
  ) as (writer, actions):
    outcome = loop.train(
      experiment,
      dataset,
      workdir,
      writer=writer,
      actions=actions,
      show=preview.make_show(experiment, dataset, workdir, writer),
    )
  step = int(outcome.state.step)
  if outcome.reason == "interrupted":
    raise errors.Interrupted(
      outcome.signal_number,
      f"interrupted: saved at step {step}; repeat the same command to continue",
    )
  best = f"{outcome.history.best_loss:.4f} at step {outcome.history.best_step}"
  print(f"{outcome.reason} at step {step}; best validation loss {best}")


if __name__ == "__main__":
  command.run(main)
