"""There and back: a pipeline that diffusers wrote, fine-tuned here, taken back.

random SD-shaped unet and vae -> save_pretrained -> configs/sd15_finetune.py, 20 steps
  -> save_unet -> from_pretrained: the same output as ours
"""

from collections.abc import Iterator
import pathlib
import tempfile

import diffusers
import jax
import numpy as np
import torch
import unet as unet_parity

from configs import sd15_finetune
from cxr_diffusion_jax.interop import diffusers as interop
from cxr_diffusion_jax.models import kl_codec
from cxr_diffusion_jax.training import denoiser_trainer
from cxr_diffusion_jax.training import experiment as experiment_lib

NUM_STEPS = 20
# Four levels, as Stable Diffusion has, of few channels; its text encoder's width.
_UNET = {
  "block_out_channels": (32, 32, 64, 64),
  "layers_per_block": 1,
  "norm_num_groups": 8,
  "attention_head_dim": 4,
  "cross_attention_dim": 768,
}
_VAE = {
  "block_out_channels": (8, 8, 8, 8),
  "down_block_types": ("DownEncoderBlock2D",) * 4,
  "up_block_types": ("UpDecoderBlock2D",) * 4,
  "norm_num_groups": 4,
}


def rows() -> Iterator[unet_parity.Row]:
  """Yields what the round trip shows."""
  with tempfile.TemporaryDirectory() as scratch:
    yield from _round_trip(pathlib.Path(scratch))


def _round_trip(folder: pathlib.Path) -> Iterator[unet_parity.Row]:
  peer = unet_parity.randomise(diffusers.UNet2DConditionModel(**_UNET))
  peer.save_pretrained(folder / "sd" / "unet")
  vae = unet_parity.randomise(diffusers.AutoencoderKL(**_VAE))
  vae.save_pretrained(folder / "sd" / "vae")
  experiment = _experiment(folder / "sd")
  programs = denoiser_trainer.make_programs(experiment, {})
  state = programs.init()
  unet = experiment.pretrained.network
  answer, theirs = _both(unet, jax.device_get(state.params), peer)
  difference = np.abs(answer - theirs).max()
  rms = unet_parity.rms
  yield (
    "loaded for training: output (max abs)",
    rms(answer),
    rms(theirs),
    difference,
    2e-5,
  )

  batch = _batch(experiment)
  losses = []
  for _ in range(NUM_STEPS):
    state, metrics = programs.train_step(state, batch)
    losses.append(float(metrics["loss"]))
  params = jax.device_get(state.params)
  first, last = np.mean(losses[:4]), np.mean(losses[-4:])
  rise = max(last - first, 0.0)
  what = f"loss of the last 4 of {NUM_STEPS} steps, and of the first (rise)"
  yield what, last, first, rise, 0.0

  interop.save_unet(folder / "tuned", unet, params)
  again = diffusers.UNet2DConditionModel.from_pretrained(folder / "tuned").eval()
  answer, before = _both(unet, params, again)[0], answer
  moved = float(np.abs(answer - before).max())
  theirs = _both(unet, params, again)[1]
  difference = np.abs(answer - theirs).max() if moved > 1e-3 else np.nan
  what = "trained, saved, in diffusers: output (max abs)"
  yield what, rms(answer), rms(theirs), difference, 2e-5
  _, loaded = interop.load_unet(folder / "tuned")
  difference = max(
    np.abs(ours - theirs).max()
    for ours, theirs in zip(
      jax.tree.leaves(params), jax.tree.leaves(loaded), strict=True
    )
  )
  what = "trained, saved, loaded: parameters (max abs)"
  sizes = [rms(np.concatenate([x.ravel() for x in jax.tree.leaves(tree)]))
           for tree in (params, loaded)]  # fmt: skip
  yield what, *sizes, difference, 0.0


def _experiment(folder: pathlib.Path) -> experiment_lib.Experiment:
  config = sd15_finetune.get_config("tiny")
  config.model.update(
    pretrained=str(folder),
    block_channels=_UNET["block_out_channels"],
    num_layers=_UNET["layers_per_block"],
    attention=(True, True, True, False),
    num_heads=_UNET["attention_head_dim"],
    norm_groups=_UNET["norm_num_groups"],
  )
  config.codec.folder = str(folder)
  config.optimizer.update(learning_rate=3e-4, warmup_steps=2)
  config.train.batch_size = 8
  config.parallel.num_devices = 1
  return experiment_lib.build(config)


def _batch(experiment: experiment_lib.Experiment) -> dict[str, np.ndarray]:
  """Random pictures as moments of their latents, and random states of a text."""
  rng = np.random.default_rng(2)
  side = experiment.data.image_size
  images = np.tanh(np.float32(rng.normal(size=(8, side, side, 1))))
  codec = experiment.recipe.make_codec({})
  moments = jax.jit(kl_codec.moments, static_argnums=0)
  (column,) = experiment.recipe.conditioner.needs.columns
  return {
    "latent": np.asarray(moments(codec.autoencoder, codec.params, images)),
    column: np.float32(rng.normal(size=(8, 77, 768))),
  }


def _both(unet, params, peer) -> tuple[np.ndarray, np.ndarray]:
  """The answers [b h w c] of both to the same inputs."""
  rng = np.random.default_rng(1)
  x_t = np.float32(rng.normal(size=(2, 8, 16, 4)))
  tokens = np.float32(rng.normal(size=(2, 77, 768)))
  t = np.array([20, 700])
  context = unet_parity.context_of(tokens)
  ours = jax.jit(unet.apply)({"params": params}, x_t, t, context)
  with torch.no_grad():
    theirs = peer(
      torch.from_numpy(x_t.transpose(0, 3, 1, 2)),
      torch.from_numpy(t),
      torch.from_numpy(tokens),
    ).sample
  return np.asarray(ours), unet_parity.channels_last(theirs)
