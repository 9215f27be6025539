"""Makes diffusers_models.json: configurations, shapes and answers of diffusers' models.

Needs torch and diffusers, which this project does not. Run by hand, in an environment
that has both, when the fixture has to change:

  python tests/interop/make_diffusers_models.py

Parameters are the formula of `tests/models/denoisers/make_diffusers_unet.py`.
"""

import importlib.util
import json
import pathlib

import numpy as np

FOLDER = pathlib.Path(__file__).parent

UNETS = {
  # Stable Diffusion 2.x: linear projections, heads a level.
  "sd2": {
    "block_out_channels": [8, 16],
    "layers_per_block": 1,
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    "cross_attention_dim": 12,
    "attention_head_dim": [2, 4],
    "transformer_layers_per_block": [2, 1],
    "norm_num_groups": 4,
    "use_linear_projection": True,
    "upcast_attention": True,
  },
  "classes": {
    "in_channels": 1,
    "out_channels": 1,
    "block_out_channels": [8],
    "layers_per_block": 1,
    "down_block_types": ["DownBlock2D"],
    "up_block_types": ["UpBlock2D"],
    "cross_attention_dim": 12,
    "attention_head_dim": 2,
    "norm_num_groups": 4,
    "num_class_embeds": 5,
    "resnet_time_scale_shift": "scale_shift",
  },
}
AUTOENCODER = {
  "in_channels": 1,
  "out_channels": 1,
  "latent_channels": 3,
  "block_out_channels": [8, 12],
  "down_block_types": ["DownEncoderBlock2D"] * 2,
  "up_block_types": ["UpDecoderBlock2D"] * 2,
  "norm_num_groups": 4,
  "scaling_factor": 0.3,
  "shift_factor": 0.1,
}


def formula():
  """The module that has `parameter(name, shape)`."""
  path = FOLDER.parent / "models" / "denoisers" / "make_diffusers_unet.py"
  spec = importlib.util.spec_from_file_location("make_diffusers_unet", path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def waves(*shape: int, pace: float = 0.73) -> np.ndarray:
  """Inputs of a shape, float32 in [-1, 1]."""
  return np.sin(np.arange(np.prod(shape)) * pace).reshape(shape).astype(np.float32)


def unet_inputs(channels: int) -> dict[str, np.ndarray]:
  """x_t [2 4 8 c], not square; integer times; one example with masked tokens."""
  return {
    "x_t": waves(2, 4, 8, channels),
    "t": np.array([7, 803]),
    "tokens": waves(2, 5, 12, pace=0.91),
    "mask": np.array([[True] * 5, [True] * 3 + [False] * 2]),
    "class_labels": np.array([4, 1]),
  }


def main() -> None:
  """Asks diffusers, and writes the answers beside this file."""
  import diffusers
  import torch

  parameter = formula().parameter

  def fill(model):
    state = {
      name: torch.from_numpy(parameter(name, tuple(value.shape)))
      for name, value in model.state_dict().items()
    }
    model.load_state_dict(state)
    return model.eval()

  def record(model, **answers):
    return {
      "config": json.loads(model.to_json_string()),
      "shapes": {name: list(value.shape) for name, value in model.state_dict().items()},
      **{
        name: [float(f"{value:.8g}") for value in answer.flatten().tolist()]
        for name, answer in answers.items()
      },
    }

  def last(x):
    return x.permute(0, 2, 3, 1)

  def first(x):
    return torch.from_numpy(x.transpose(0, 3, 1, 2))

  records = {}
  with torch.no_grad():
    for name, settings in UNETS.items():
      model = fill(diffusers.UNet2DConditionModel(**settings))
      given = unet_inputs(model.config.in_channels)
      x_t, (t, tokens, mask, labels) = (
        first(given.pop("x_t")),
        (torch.from_numpy(x) for x in given.values()),
      )
      labels = labels if model.config.num_class_embeds else None
      answer = model(
        x_t, t, tokens, class_labels=labels, encoder_attention_mask=mask
      ).sample
      records[name] = record(model, answer=last(answer))
    model = fill(diffusers.AutoencoderKL(**AUTOENCODER))
    posterior = model.encode(first(waves(1, 8, 12, 1))).latent_dist
    image = model.decode(first(waves(1, 4, 6, 3))).sample
  moments = torch.cat([last(posterior.mean), last(posterior.logvar)], dim=-1)
  records["autoencoder"] = record(model, moments=moments, image=last(image))
  text = json.dumps(records, separators=(",", ":"))
  (FOLDER / "diffusers_models.json").write_text(text + "\n")


if __name__ == "__main__":
  main()
