"""Metrics on a page: their names, and a sentence about each.

"frechet_distance" -> "Fréchet distance", "Distance of ..."
"""

from collections.abc import Sequence

SUBJECTS = {
  "fidelity": "Fidelity",
  "adherence": "Adherence to the condition",
  "utility": "Utility for training",
  "diversity": "Diversity",
  "privacy": "Privacy",
  "embeddings": "Embeddings",
}

ARROWS = {"lower": "↓", "higher": "↑"}

_TITLES = {
  "frechet_distance": "Fréchet distance",
  "kernel_distance": "Kernel distance (KID)",
  "cmmd": "CMMD",
  "auroc": "AUROC",
  "macro_auroc": "Macro AUROC",
  "average_precision": "Average precision",
  "macro_average_precision": "Macro average precision",
  "ms_ssim": "MS-SSIM",
  "ms_ssim_within_condition": "MS-SSIM within a condition",
  "cardiothoracic_ratio_error_conditions_of_others": (
    "Cardiothoracic ratio error, conditions exchanged"
  ),
  "ssim": "SSIM",
  "psnr": "PSNR",
}

# Of figures that go by several names: the longest key that a metric contains.
_MEANINGS = {
  "frechet_distance": (
    "Distance between two Gaussians fitted to the features of generated and of real"
    " images. It falls with the number of images, so compare it with the floor, which"
    " uses equally many real images."
  ),
  "kernel_distance": (
    "Squared maximum mean discrepancy of features with a cubic kernel, averaged over"
    " subsets; unbiased, so it may be 0 or below by chance."
  ),
  "cmmd": "Maximum mean discrepancy of features with a Gaussian kernel.",
  "precision": (
    "Share of generated images that lie in the neighbourhood of a real image."
  ),
  "average_precision": (
    "Area under precision over recall of a finding, ranked by the classifier. Its"
    " chance level is the finding's share of the images."
  ),
  "recall": (
    "Share of real images that lie in the neighbourhood of a generated image."
  ),
  "density": (
    "Number of real neighbourhoods that a generated image lies in, relative to the"
    " expected number; may exceed 1."
  ),
  "coverage": "Share of real images with a generated image in their neighbourhood.",
  "auroc": (
    "Probability that a classifier scores an image requested with a finding higher"
    " than one requested without it; 0.5 is chance. Undefined where all images or none"
    " were requested with it."
  ),
  "ssim": "Similarity of two images; high among images of one condition: no diversity.",
  "margin": "Similarity to the requested finding's text minus that to its absence.",
  "membership_auroc": (
    "AUROC of distinguishing training images from others; 0.5: nothing leaks."
  ),
  "nearest": "Distance from a generated image to its nearest training image.",
  "copies": "Images closer to a training image than real test images almost ever are.",
  "patient_identified": (
    "How often the conditioning image is the nearest one to the generated image."
  ),
  "feature_distance": "Distance between the features of two images; small if similar.",
  "tstr": "A classifier trained on generated images, tested on real ones.",
  "real_and_synthetic": "A classifier trained on both, tested on real images.",
  "synthetic_then_real": (
    "A classifier trained on generated, then on real images, tested on real ones."
  ),
  "_difference": "The metric minus that of real training images alone.",
  "_error": "Mean absolute difference between the measured and the requested quantity.",
  "_correlation": "Correlation of the measured with the requested quantity.",
  "_bias": "Mean of the measured minus the requested quantity.",
  "of_others": "The same error with conditions exchanged among images: chance level.",
  "pointing_game": "Share of boxes that contain the point of highest evidence.",
  "change_by": (
    "Mean absolute difference in grey levels of two images that differ only in this."
  ),
}


def title(metric: str) -> str:
  """The metric's name in the literature, or its own name in words."""
  if metric in _TITLES:
    return _TITLES[metric]
  words = metric.replace("_", " ").strip()
  for short in ("auroc", "tstr", "ssim", "iou"):
    words = " ".join(w.upper() if w == short else w for w in words.split(" "))
  return words[:1].upper() + words[1:]


def meaning(metric: str) -> str:
  """A sentence about a metric; "" for an unknown one."""
  keys = [key for key in _MEANINGS if key in metric]
  return _MEANINGS[max(keys, key=len)] if keys else ""


def join(words: Sequence[str]) -> str:
  """'a', 'a and b', 'a, b and c'."""
  *first, last = words
  return f"{', '.join(first)} and {last}" if first else last
