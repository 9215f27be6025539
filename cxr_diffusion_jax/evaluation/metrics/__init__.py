"""Figures of images and of their features, as pure functions of arrays.

frechet_distance(a, b), kernel_distance, cmmd, precision_recall, density_coverage: of
features [n d] and [m d]; psnr, ssim, ms_ssim: of images [b h w c] in [0, 1].
"""

from cxr_diffusion_jax.evaluation.metrics.diversity import ms_ssim, psnr, ssim
from cxr_diffusion_jax.evaluation.metrics.frechet import frechet_distance
from cxr_diffusion_jax.evaluation.metrics.kernels import cmmd, kernel_distance
from cxr_diffusion_jax.evaluation.metrics.neighbourhoods import (
  density_coverage,
  precision_recall,
)

__all__ = (
  "cmmd",
  "density_coverage",
  "frechet_distance",
  "kernel_distance",
  "ms_ssim",
  "precision_recall",
  "psnr",
  "ssim",
)
