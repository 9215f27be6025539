"""The autoencoder against diffusers' AutoencoderKL: moments, decoding, files.

As for the UNet: random weights -> save_pretrained -> load_autoencoder, and back.
"""

from collections.abc import Iterator
import pathlib
import tempfile

import diffusers
import jax
import numpy as np
import torch
import unet as unet_parity

from cxr_diffusion_jax.interop import diffusers as interop
from cxr_diffusion_jax.interop import names

_F8 = {
  "block_out_channels": (16, 32, 32, 32),
  "down_block_types": ("DownEncoderBlock2D",) * 4,
  "up_block_types": ("UpDecoderBlock2D",) * 4,
  "layers_per_block": 2,
  "norm_num_groups": 8,
}
_F4 = {
  **_F8,
  "block_out_channels": (16, 32, 32),
  "down_block_types": ("DownEncoderBlock2D",) * 3,
  "up_block_types": ("UpDecoderBlock2D",) * 3,
  "in_channels": 1,
  "out_channels": 1,
  "latent_channels": 3,
  "mid_block_add_attention": False,
}
CASES = (
  ("SD, f8, 64x64", _F8, (64, 64)),
  ("SD, f8, 64x96", _F8, (64, 96)),
  ("1 channel, f4, 48x32, no attention", _F4, (48, 32)),
)


def rows() -> Iterator[unet_parity.Row]:
  """Yields the comparisons of all cases."""
  for what, options, size in CASES:
    with tempfile.TemporaryDirectory() as scratch:
      yield from _case(what, options, size, pathlib.Path(scratch))


def _case(
  what: str, options: dict, size: tuple[int, int], folder: pathlib.Path
) -> Iterator[unet_parity.Row]:
  peer = unet_parity.randomise(diffusers.AutoencoderKL(**options))
  peer.save_pretrained(folder / "theirs")
  network, params = interop.load_autoencoder(folder / "theirs")
  shape = (2, *size, peer.config.in_channels)
  image = np.tanh(np.float32(np.random.default_rng(1).normal(size=shape)))

  def apply(method):
    return jax.jit(
      lambda params, x: network.apply({"params": params}, x, method=method)
    )

  moments = np.concatenate(apply("encode")(params, image), axis=-1)
  theirs, latent, decoded = _ask(peer, image)
  rms = unet_parity.rms
  difference = np.abs(moments - theirs).max()
  yield f"{what}: moments (max abs)", rms(moments), rms(theirs), difference, 2e-5
  answer = apply("decode")(params, unet_parity.channels_last(latent))
  difference = np.abs(answer - decoded).max()
  yield f"{what}: decoded (max abs)", rms(answer), rms(decoded), difference, 1e-4
  yield _gradients(what, network, params, image, peer)

  interop.save_autoencoder(folder / "ours", network, params)
  again = diffusers.AutoencoderKL.from_pretrained(folder / "ours").eval()
  _, _, answer = _ask(again, image)
  difference = np.abs(answer - decoded).max()
  yield f"{what}: saved, in diffusers", rms(answer), rms(decoded), difference, 0.0


def _ask(peer, image: np.ndarray) -> tuple[np.ndarray, torch.Tensor, np.ndarray]:
  """Mean and logvar [b h' w' 2z], a latent [b z h' w'], and what it is decoded to."""
  with torch.no_grad():
    posterior = peer.encode(torch.from_numpy(image.transpose(0, 3, 1, 2))).latent_dist
    moments = torch.cat([posterior.mean, posterior.logvar], dim=1)
    decoded = peer.decode(posterior.mean).sample
  channels_last = unet_parity.channels_last
  return channels_last(moments), posterior.mean, channels_last(decoded)


def _gradients(what: str, network, params, image, peer) -> unet_parity.Row:
  """Of the mean square error of the image that comes back."""

  def loss_fn(params):
    return ((network.apply({"params": params}, image) - image) ** 2).mean()

  loss, grads = jax.jit(jax.value_and_grad(loss_fn))(params)
  x = torch.from_numpy(image.transpose(0, 3, 1, 2))
  answer = peer.decode(peer.encode(x).latent_dist.mean).sample
  peer_loss = torch.nn.functional.mse_loss(answer, x)
  peer_loss.backward()
  theirs = {name: value.grad.numpy() for name, value in peer.named_parameters()}
  difference = unet_parity.relative(names.from_tree(grads), theirs)
  peer_loss = float(peer_loss.detach())
  return f"{what}: gradients (relative)", float(loss), peer_loss, difference, 1e-4
