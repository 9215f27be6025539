"""The UNet against diffusers' UNet2DConditionModel: outputs, gradients and files.

Each case: random weights -> save_pretrained -> load_unet -> the same inputs to both;
then save_unet -> from_pretrained, which must give the same bits.
"""

from collections.abc import Iterator
import pathlib
import tempfile

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import torch

from cxr_diffusion_jax.interop import diffusers as interop
from cxr_diffusion_jax.interop import names
from cxr_diffusion_jax.types import Context, TokenStream

_SMALL = {
  "block_out_channels": (32, 64, 64, 64),
  "norm_num_groups": 8,
  "attention_head_dim": 4,
  "cross_attention_dim": 24,
}
_SD2 = {
  **_SMALL,
  "attention_head_dim": (2, 4, 8, 8),
  "use_linear_projection": True,
  "upcast_attention": True,
}
# What is compared, diffusers' options, (height, width) of x_t, tokens that are masked.
CASES = (
  ("SD 1.x", _SMALL, (16, 16), 0),
  ("SD 1.x, 16x24, masked", _SMALL, (16, 24), 3),
  ("SD 2.x, 24x16, masked", _SD2, (24, 16), 2),
  ("1 channel", {**_SMALL, "in_channels": 1, "out_channels": 1}, (16, 16), 0),
  ("blocks (1, 2, 1, 2), scale_shift", {
    **_SMALL, "transformer_layers_per_block": (1, 2, 1, 2),
    "resnet_time_scale_shift": "scale_shift"}, (8, 16), 0),
)  # fmt: skip

Row = tuple[str, float, float, float, float]


def rows() -> Iterator[Row]:
  """Yields the comparisons of all cases."""
  for what, options, size, num_masked in CASES:
    with tempfile.TemporaryDirectory() as scratch:
      yield from _case(what, options, size, num_masked, pathlib.Path(scratch))


def randomise(model: torch.nn.Module) -> torch.nn.Module:
  """Gives each parameter values that keep activations near 1."""
  rng = np.random.default_rng(0)
  with torch.no_grad():
    for name, value in model.named_parameters():
      drawn = rng.normal(size=value.shape)
      if value.ndim > 1:
        drawn /= np.sqrt(np.prod(value.shape[1:]))
      else:
        drawn = 0.2 * drawn + name.endswith("weight")
      value.copy_(torch.from_numpy(np.float32(drawn)))
  return model.eval()


def context_of(tokens: np.ndarray, mask: np.ndarray | None = None) -> Context:
  """A context of one stream [b n d]; a mask [b n] of None keeps all tokens."""
  mask = np.ones(tokens.shape[:2], bool) if mask is None else mask
  return (TokenStream(tokens=tokens, mask=mask),)


def rms(x) -> float:
  """The root of the mean square."""
  return float(np.sqrt(np.mean(np.square(np.asarray(x, np.float64)))))


def channels_last(x: torch.Tensor) -> np.ndarray:
  """[b c h w] -> [b h w c]."""
  return x.detach().numpy().transpose(0, 2, 3, 1)


def relative(ours: dict[str, np.ndarray], peers: dict[str, np.ndarray]) -> float:
  """The largest |difference| of any gradient, in parts of its own largest entry.

  But for `to_k.bias`: it adds the same to all scores of a query, which softmax ignores,
  so its gradient is rounding alone (2e-9). It is measured by its kernel's.
  """
  worst = []
  for name, peer in peers.items():
    scale = peers[name.replace("to_k.bias", "to_k.weight")]
    worst.append(float(np.abs(ours[name] - peer).max() / np.abs(scale).max()))
  # Not Python's `max`, which may pass over NaN.
  return float(np.max(worst))


def _case(
  what: str, options: dict, size: tuple[int, int], num_masked: int, folder: pathlib.Path
) -> Iterator[Row]:
  peer = randomise(diffusers.UNet2DConditionModel(**options))
  peer.save_pretrained(folder / "theirs")
  unet, params = interop.load_unet(folder / "theirs")
  rng = np.random.default_rng(1)
  x_t, noise = (
    np.float32(rng.normal(size=(2, *size, peer.config.in_channels))) for _ in "xn"
  )
  t = np.array([3, 911])
  tokens = np.float32(rng.normal(size=(2, 7, peer.config.cross_attention_dim)))
  mask = np.ones((2, 7), bool)
  mask[1, 7 - num_masked :] = num_masked == 0
  context = context_of(tokens, mask)

  def loss_fn(params):
    answer = unet.apply({"params": params}, x_t, t, context)
    return jnp.mean((answer - noise) ** 2), answer

  (loss, answer), grads = jax.jit(jax.value_and_grad(loss_fn, has_aux=True))(params)
  theirs, peer_loss = _ask(peer, x_t, noise, t, tokens, mask)
  difference = np.abs(answer - theirs).max()
  yield f"{what}: output (max abs)", rms(answer), rms(theirs), difference, 2e-5
  ours = names.from_tree(grads)
  peer_grads = {name: value.grad.numpy() for name, value in peer.named_parameters()}
  difference = relative(ours, peer_grads)
  yield f"{what}: gradients (relative)", float(loss), peer_loss, difference, 1e-4

  interop.save_unet(folder / "ours", unet, params)
  again = diffusers.UNet2DConditionModel.from_pretrained(folder / "ours").eval()
  answer, _ = _ask(again, x_t, noise, t, tokens, mask)
  difference = np.abs(answer - theirs).max()
  yield f"{what}: saved, in diffusers", rms(answer), rms(theirs), difference, 0.0


def _ask(peer, x_t, noise, t, tokens, mask) -> tuple[np.ndarray, float]:
  """The peer's answer [b h w c] and loss; its gradients are left in it."""
  x_t, noise = (torch.from_numpy(x.transpose(0, 3, 1, 2)) for x in (x_t, noise))
  answer = peer(
    x_t,
    torch.from_numpy(t),
    torch.from_numpy(tokens),
    encoder_attention_mask=torch.from_numpy(mask),
  ).sample
  loss = torch.nn.functional.mse_loss(answer, noise)
  loss.backward()
  return channels_last(answer), float(loss.detach())
