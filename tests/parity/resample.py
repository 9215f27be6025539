"""Residual blocks that change the resolution, against those of diffusers.

Blocks: the same weights in `ResnetBlock` and in ResnetBlock2D(down or up), with
scale-shift time and a divided sum, outputs and gradients. Network: the resnets of
ResnetDownsampleBlock2D and ResnetUpsampleBlock2D in a whole UNet.
"""

from collections.abc import Iterator
import math

import diffusers
from diffusers.models import resnet
import jax
import jax.numpy as jnp
import numpy as np
import torch
from unet import Row, channels_last, context_of, randomise, relative, rms

from cxr_diffusion_jax.interop import names
from cxr_diffusion_jax.models.denoisers.unet import UNet
from cxr_diffusion_jax.models.unet_blocks import ResnetBlock

CHANNELS, TIME = 16, 24


def rows() -> Iterator[Row]:
  """Yields the comparisons."""
  for resample in ("down", "up"):
    for conditioning in ("additive", "scale_shift"):
      yield from _block(resample, conditioning)
  yield _network()


def _params(peer: torch.nn.Module, shapes):
  state = {name: value.detach().numpy() for name, value in peer.state_dict().items()}
  return names.to_tree(state, shapes)


def _channels_first(x: np.ndarray) -> torch.Tensor:
  return torch.from_numpy(x.transpose(0, 3, 1, 2))


def _block(resample: str, conditioning: str) -> Iterator[Row]:
  peer = randomise(
    resnet.ResnetBlock2D(
      in_channels=CHANNELS,
      out_channels=CHANNELS,
      temb_channels=TIME,
      groups=4,
      eps=1e-5,
      time_embedding_norm="default" if conditioning == "additive" else conditioning,
      output_scale_factor=math.sqrt(2),
      down=resample == "down",
      up=resample == "up",
    )
  )
  block = ResnetBlock(
    CHANNELS,
    norm_groups=4,
    time_conditioning=conditioning,
    resample=resample,
    skip_scale=math.sqrt(0.5),
  )
  rng = np.random.default_rng(0)
  x = np.float32(rng.standard_normal((2, 8, 12, CHANNELS)))
  time = np.float32(rng.standard_normal((2, TIME)))
  params = _params(
    peer, jax.eval_shape(block.init, jax.random.key(0), x, time)["params"]
  )

  def loss_fn(params):
    answer = block.apply({"params": params}, x, time)
    return jnp.mean(answer**4), answer

  (loss, ours), grads = jax.jit(jax.value_and_grad(loss_fn, has_aux=True))(params)
  answer = peer(_channels_first(x), torch.from_numpy(time))
  peer_loss = (answer**4).mean()
  peer_loss.backward()
  theirs = channels_last(answer)
  what = f"block {resample}, {conditioning}"
  difference = np.abs(ours - theirs).max()
  yield f"{what}: output (max abs)", rms(ours), rms(theirs), difference, 2e-5
  peer_grads = {name: value.grad.numpy() for name, value in peer.named_parameters()}
  difference = relative(names.from_tree(grads), peer_grads)
  both = float(loss), float(peer_loss.detach())
  yield f"{what}: gradients (relative)", *both, difference, 1e-4


def _network() -> Row:
  peer = randomise(
    diffusers.UNet2DConditionModel(
      block_out_channels=(16, 32),
      down_block_types=("ResnetDownsampleBlock2D",) * 2,
      up_block_types=("ResnetUpsampleBlock2D",) * 2,
      layers_per_block=1,
      norm_num_groups=4,
      attention_head_dim=4,
      cross_attention_dim=12,
      resnet_time_scale_shift="scale_shift",
    )
  )
  unet = UNet(
    block_channels=(16, 32),
    num_layers=1,
    attention=(False, False),
    num_heads=4,
    norm_groups=4,
    context_width=12,
    time_conditioning="scale_shift",
    resample="resnet",
  )
  rng = np.random.default_rng(0)
  x_t = np.float32(rng.standard_normal((2, 8, 12, 4)))
  tokens = np.float32(rng.standard_normal((2, 5, 12)))
  t = np.array([3, 911])
  inputs = x_t, t, context_of(tokens)
  shapes = jax.eval_shape(unet.init, jax.random.key(0), *inputs)["params"]
  ours = jax.jit(unet.apply)({"params": _params(peer, shapes)}, *inputs)
  asked = _channels_first(x_t), torch.from_numpy(t), torch.from_numpy(tokens)
  theirs = channels_last(peer(*asked).sample)
  difference = np.abs(ours - theirs).max()
  return "UNet of such: output (max abs)", rms(ours), rms(theirs), difference, 2e-5
