"""What networks see in images: the feature vectors that fidelity is measured on.

open_extractors(names) -> [Extractor, ...]
extract(extractor, images) --batches, kept on disk--> features [n d]

A distance between sets of images is one between their features, so that no figure says
anything without the network and the layer that it was measured on.
"""

from cxr_diffusion_jax.evaluation.features.extraction import extract
from cxr_diffusion_jax.evaluation.features.extractor import Extractor
from cxr_diffusion_jax.evaluation.features.opening import AUTO, NAMES, open_extractors

__all__ = ("AUTO", "NAMES", "Extractor", "extract", "open_extractors")
