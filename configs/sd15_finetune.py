"""Stable Diffusion 1.5's UNet fine-tuned on X-rays; its autoencoder and CLIP stay.

  python -m cxr_diffusion_jax.main --config configs/sd15_finetune.py \
    --config.model.pretrained=stable-diffusion-v1-5 --config.data.root=nih-cxr \
    --config.codec.folder=stable-diffusion-v1-5 --workdir runs/sd15

RoentGen's way (2211.12737): its rate, batch and 60,000 steps, 187 epochs of NIH. One
stream (`:base,elixr_c`) is handed on as it is, several through a fresh embedder.
"""

import importlib


def get_config(choice: str = "base"):
  """Returns the recipe of SIZE or SIZE,PATH."""
  size, _, path = choice.partition(",")
  recipe = importlib.import_module(f"configs.{path or 'clip_text'}")
  config = recipe.get_config(f"kl_{size},ddpm_epsilon")
  config.conditioning.update({} if path else {"all_states": True})  # as SD was trained
  config.model.update(pretrained="stable-diffusion-v1-5", pooled=False)
  config.model.update(query_positions=False, time_conditioning="additive", dropout=0.0)
  config.diffusion.schedule.terminal_logsnr = None  # the weights' own levels
  config.optimizer.update(learning_rate=5e-5, schedule="constant")
  config.train.num_steps = min(config.train.num_steps, 60_000)
  return config
