"""What figures are called on a page, and what each says in a sentence.

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
    "Cardiothoracic ratio error, conditions of others"
  ),
  "ssim": "SSIM",
  "psnr": "PSNR",
}

# Of figures that go by several names: the longest key that a metric contains.
_MEANINGS = {
  "frechet_distance": (
    "Distance of two Gaussians that were fitted to the features of generated and of"
    " real images. It falls with the number of images, so compare it with the floor,"
    " which is of as many real images."
  ),
  "kernel_distance": (
    "Squared maximum mean discrepancy of features with a cubic kernel, averaged over"
    " subsets; free of bias, so 0 is reached and passed by chance."
  ),
  "cmmd": "Maximum mean discrepancy of features with a Gaussian kernel.",
  "precision": (
    "Share of generated images that lie within the neighbourhood of a real image."
  ),
  "average_precision": (
    "Area under precision over recall of a finding, ranked by the classifier. Its"
    " chance level is the finding's share of the images."
  ),
  "recall": (
    "Share of real images that lie within the neighbourhood of a generated image."
  ),
  "density": (
    "How many real neighbourhoods a generated image lies in, by how many there should"
    " be; may exceed 1."
  ),
  "coverage": "Share of real images whose neighbourhood holds a generated image.",
  "auroc": (
    "Chance that an image that was asked to show a finding is scored higher for it by"
    " a classifier than one that was not; 0.5 says nothing was understood. Undefined"
    " where all images or none were asked to show it."
  ),
  "ssim": "Likeness of two images; high between images of a condition: all alike.",
  "margin": "Likeness to the asked finding's text less that to its absence.",
  "membership_auroc": (
    "AUROC of telling training images from others; 0.5 says that nothing leaks."
  ),
  "nearest": "Distance from a generated image to the training image nearest to it.",
  "copies": "Images as near to a training image as real test images hardly ever are.",
  "patient_identified": (
    "How often the conditioning image is the nearest one of all to what was made of it."
  ),
  "feature_distance": "Distance of features of two images; small: they are alike.",
  "tstr": "Of a classifier trained on generated images, tested on real ones.",
  "real_and_synthetic": "Of a classifier trained on both, tested on real images.",
  "synthetic_then_real": (
    "Of a classifier trained on generated, then on real images, tested on real ones."
  ),
  "_difference": "That metric less the same of real training images alone.",
  "_error": "Mean absolute difference of the measured quantity from the asked one.",
  "_correlation": "Of the measured with the asked quantity, over images.",
  "_bias": "Mean of the measured less the asked quantity.",
  "of_others": "The same error if the conditions were exchanged: chance level.",
  "pointing_game": "Share of boxes that hold the point most telling for the finding.",
  "change_by": (
    "Mean absolute difference in grey levels of two images that differ in this alone."
  ),
}


def title(metric: str) -> str:
  """The name of a metric for people: the literature's, or its own in words."""
  if metric in _TITLES:
    return _TITLES[metric]
  words = metric.replace("_", " ").strip()
  for short in ("auroc", "tstr", "ssim", "iou"):
    words = " ".join(w.upper() if w == short else w for w in words.split(" "))
  return words[:1].upper() + words[1:]


def meaning(metric: str) -> str:
  """A sentence about a metric; "" for one that is not known here."""
  keys = [key for key in _MEANINGS if key in metric]
  return _MEANINGS[max(keys, key=len)] if keys else ""


def join(words: Sequence[str]) -> str:
  """'a', 'a and b', 'a, b and c'."""
  *first, last = words
  return f"{', '.join(first)} and {last}" if first else last
