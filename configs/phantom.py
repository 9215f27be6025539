"""The embedded default: phantoms, stand-in encoders and a tiny model, nothing loaded.

python -m cxr_diffusion_jax.main --config configs/phantom.py --workdir runs/phantom
"""

from configs import elixr_c


def get_config(size: str = "tiny"):
  """Returns the ELIXR-C recipe on phantoms made on the spot."""
  config = elixr_c.get_config(size)
  config.data.root = "phantom-cxr"
  config.data.phantom_images = 2400
  config.data.standin = True
  config.train.num_steps = 1800
  return config
