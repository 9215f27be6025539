"""The page of a comparison: one file that opens from disk, figures, tables.

Comparison -> write -> OUT/report.html, OUT/figures/*.{svg,png}, OUT/table.{md,csv}
"""

from cxr_diffusion_jax.evaluation.comparison_page.page import write

__all__ = ["write"]
