"""Makes diffusers_unet.json: what diffusers' UNet is named, shaped and answers.

Needs torch and diffusers, which this project does not. Run by hand, in an environment
that has both, when the fixture has to change:

  python tests/models/denoisers/make_diffusers_unet.py

Parameters are a formula of their names, so that only the answer has to be stored.
"""

import hashlib
import json
import math
import pathlib
import zlib

import numpy as np


def settings() -> dict:
  """The small configuration, in diffusers' words."""
  return {
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": [16, 32],
    "layers_per_block": 2,
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    "cross_attention_dim": 12,
    "attention_head_dim": 4,
    "norm_num_groups": 8,
  }


def parameter(name: str, shape: tuple[int, ...]) -> np.ndarray:
  """Float32 values of a PyTorch parameter, of a size that keeps activations near 1."""
  count = math.prod(shape)
  phase = zlib.crc32(name.encode()) % 1000
  values = np.sin(np.arange(count) * 1.37 + phase * 0.618).reshape(shape)
  if len(shape) > 1:
    values *= math.sqrt(2 / math.prod(shape[1:]))
  elif name.endswith("weight"):
    values = 1 + 0.2 * values
  else:
    values *= 0.2
  return values.astype(np.float32)


def inputs() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """x_t [2 8 8 4], t [2], tokens [2 5 12], float32."""
  x_t = np.sin(np.arange(2 * 8 * 8 * 4) * 0.73).reshape(2, 8, 8, 4)
  tokens = np.cos(np.arange(2 * 5 * 12) * 0.91).reshape(2, 5, 12)
  return tuple(np.float32(x) for x in (x_t, [12.5, 803.0], tokens))


def digest(shapes: dict[str, list[int]]) -> str:
  """A hash of names and shapes, whatever their order."""
  return hashlib.sha256(json.dumps(shapes, sort_keys=True).encode()).hexdigest()


def main() -> None:
  """Asks diffusers, and writes the answer beside this file."""
  import diffusers
  import torch

  def shapes_of(model):
    return {name: list(value.shape) for name, value in model.state_dict().items()}

  model = diffusers.UNet2DConditionModel(**settings()).eval()
  shapes = shapes_of(model)
  state = {
    name: torch.from_numpy(parameter(name, tuple(shape)))
    for name, shape in shapes.items()
  }
  model.load_state_dict(state)
  x_t, t, tokens = (torch.from_numpy(x) for x in inputs())
  with torch.no_grad():
    answer = model(x_t.permute(0, 3, 1, 2), t, tokens).sample.permute(0, 2, 3, 1)
  with torch.device("meta"):
    full = diffusers.UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8)
  record = {
    "diffusers": diffusers.__version__,
    "shapes": shapes,
    "stable_diffusion_1_5_digest": digest(shapes_of(full)),
    "answer": [float(f"{value:.8g}") for value in answer.flatten().tolist()],
  }
  path = pathlib.Path(__file__).with_name("diffusers_unet.json")
  path.write_text(json.dumps(record, indent=None, separators=(",", ":")) + "\n")


if __name__ == "__main__":
  main()
