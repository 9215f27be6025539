"""Trains an autoencoder of grey X-rays, or resumes an unfinished run.

  python -m cxr_diffusion_jax.train_autoencoder --config autoencoder:phantom \\
    --workdir runs/autoencoder

A denoiser uses it with `--config elixr_c:kl_small --config.codec.folder=WORKDIR`.
WORKDIR/autoencoder has the format of diffusers.
"""

import typing

from absl import flags, logging
from etils import epath

from cxr_diffusion_jax.cli import (
  command,
  configs,
  flag_help,
  host_flags,
  metrics_logger,
  terminal,
)

if typing.TYPE_CHECKING:
  from cxr_diffusion_jax.encoders import image_features

with flag_help.group("Run"):
  _CONFIG = configs.define()
  _WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run.", required=True)
  _FROM_STEP = configs.define_from_step()
  _HOSTS = host_flags.define()
  _FEATURES = flags.DEFINE_string(
    "features",
    "auto",
    "What rFID compares at the end: 'probe' (a classifier, trained if there is none), a"
    " folder or hub id of a CLIP or DINOv2, 'none', or 'auto': the loss's encoder, else"
    " the probe of these records where there is one.",
  )


def main() -> None:
  """Trains and evaluates, on one host or several."""
  terminal.announce_compiling()
  with host_flags.joined(_HOSTS):
    _train()


def _train() -> None:
  """Builds the experiment, prepares its images, trains and evaluates it."""
  from cxr_diffusion_jax.conditioning import base as conditioning
  from cxr_diffusion_jax.extras.autoencoder import report as autoencoder_report
  from cxr_diffusion_jax.extras.autoencoder import settings
  from cxr_diffusion_jax.extras.autoencoder import trainer as trainer_lib
  from cxr_diffusion_jax.parallel import agreement
  from cxr_diffusion_jax.run import compatibility, locks
  from cxr_diffusion_jax.run import dataset as dataset_lib
  from cxr_diffusion_jax.training import loop, start

  experiment = settings.build(_CONFIG.value)
  compatibility.check_hosts(experiment.config)
  workdir = command.writable_folder(_WORKDIR.value)
  agreement.check_shared(epath.Path(workdir))
  with locks.hold(workdir):
    start.check_resumable(workdir, experiment.config, from_step=_FROM_STEP.value)
    features = _encoder(experiment.loss.perceptual, "config.loss.perceptual")
    programs = trainer_lib.make_programs(experiment, features)
    dataset = dataset_lib.prepare(
      experiment.data, conditioning.Needs(), progress=command.progress
    )
    compatibility.check_hosts_data(dataset.card)
    logging.info("data: %s", dataset.summary())
    size = experiment.data.image_size
    logging.info("autoencoder: %s", trainer_lib.describe(experiment.network, size))
    shapes = programs.like().ema_params
    metrics_logger.list_parameters(epath.Path(workdir), "autoencoder", shapes)
    with metrics_logger.opened(
      epath.Path(workdir),
      compatibility.flatten(experiment.config),
      num_steps=experiment.train.num_steps,
      profile_steps=experiment.train.profile_steps,
    ) as (writer, actions):
      trainer = trainer_lib.AutoencoderTrainer(
        experiment=experiment, dataset=dataset, programs=programs, workdir=workdir
      )
      outcome = loop.train(trainer, workdir, writer=writer, actions=actions)
      outcome.check_complete()
      step = outcome.step
      if _FEATURES.value not in ("auto", "probe", "none"):
        features = _encoder(_FEATURES.value, "--features")
      report = autoencoder_report.write(
        trainer,
        params=outcome.state.ema_params,
        step=step,
        write_scalars=writer.write_scalars,
        features=None if _FEATURES.value == "none" else features,
        train_probe=_FEATURES.value == "probe",
        progress=command.progress,
      )
  print(f"{outcome.reason} at step {step}; {report}; {workdir / trainer_lib.FOLDER}")


def _encoder(name: str, setting: str) -> "image_features.ImageFeatures | None":
  """Loads a frozen encoder by the value of a setting, and logs which one it is."""
  from cxr_diffusion_jax.encoders import image_features

  if name == "none":
    return None
  chosen = image_features.available() if name == "auto" else name
  if chosen is None:
    logging.info(
      "%s=auto: none of %s is in the hub's cache, so there is no perceptual loss",
      setting,
      ", ".join(image_features.KNOWN),
    )
    return None
  logging.info("%s: %s", setting, chosen)
  return image_features.load(chosen)


if __name__ == "__main__":
  command.run(main)
