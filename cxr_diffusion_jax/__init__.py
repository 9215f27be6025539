"""Diffusion models of chest X-rays, conditioned on text, images and ELIXR.

import cxr_diffusion_jax as cxr
images = cxr.load_run("runs/clip_text").sample(prompt="pleural effusion", num=4)
"""

from etils import epy

# The import of jax takes seconds: it waits until something is used.
with epy.lazy_api_imports(globals()):
  from cxr_diffusion_jax.api import Run, load_run
  from cxr_diffusion_jax.evaluation import metrics

__all__ = ["Run", "load_run", "metrics"]
