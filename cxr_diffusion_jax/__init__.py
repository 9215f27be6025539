"""Diffusion models of chest X-rays, conditioned on text, images and ELIXR.

import cxr_diffusion_jax as cxr
images = cxr.load_run("runs/clip_text").sample(prompt="large left effusion", num=4)
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from cxr_diffusion_jax.api import Run, load_run
  from cxr_diffusion_jax.evaluation import metrics

__all__ = ["Run", "load_run", "metrics"]


def __getattr__(name: str) -> Any:
  # The import of jax takes seconds: it waits until something is used.
  if name == "metrics":
    return importlib.import_module("cxr_diffusion_jax.evaluation.metrics")
  if name in __all__:
    return getattr(importlib.import_module("cxr_diffusion_jax.api"), name)
  raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
