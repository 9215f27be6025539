"""The embedded default: phantoms, stand-in encoders and a tiny model, no download.

  python -m cxr_diffusion_jax.main --config configs/phantom.py --workdir runs/phantom

It takes 9 to 13 minutes on 2 CPU cores (measured); figures: `docs/results/`.
`:clip_text` chooses that path, `:clip_text,small` a size too, `:clip_text,small,edm` a
recipe of `configs/default.py`.
"""

import importlib.util


def get_config(choice: str = "elixr_c"):
  """Returns a path's recipe on phantoms made on the spot."""
  path, _, size = choice.partition(",")
  if not importlib.util.find_spec(f"configs.{path}"):
    raise ValueError(f"config {choice!r}; expected PATH or PATH,SIZE[,RECIPE]")
  config = importlib.import_module(f"configs.{path}").get_config(size or "tiny")
  config.data.root = "phantom-cxr"
  config.data.phantom_images = 2400
  config.data.standin = True
  if "encoder" in config.conditioning:
    config.conditioning.encoder = "standin"
  config.train.num_steps = 1800
  return config
