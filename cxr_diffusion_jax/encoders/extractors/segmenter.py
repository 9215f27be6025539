"""A user's segmenter of heart and lungs as ONNX, which measures anatomy in images.

images --NAME.onnx--> scores [b c h w] --above the threshold, largest region-->
  heart, left lung, right lung
  cardiothoracic ratio  widest extent of the heart over that of both lungs together
  lung area             share of the image, of each lung

NAME.onnx is read with NAME.json, for example of torchxrayvision's PSPNet:
  {"size": 512, "mean": 0.5, "std": 0.00048828125, "threshold": 0.0,
   "channels": {"heart": 8, "left_lung": 4, "right_lung": 5}}
The threshold is 0 for logits and 0.5 for probabilities.
"""

from collections.abc import Mapping

import numpy as np

from cxr_diffusion_jax import types
from cxr_diffusion_jax.encoders.extractors import extractor as extractor_lib
from cxr_diffusion_jax.encoders.extractors import onnx_network, user_network
from cxr_diffusion_jax.encoders.extractors.extractor import Extractor

QUANTITIES = ("cardiothoracic_ratio", "lung_area_right", "lung_area_left")

_ORGANS = ("heart", "left_lung", "right_lung")
_EXAMPLE = (
  '{"size": 512, "mean": 0.5, "std": 0.25, "threshold": 0.0,'
  ' "channels": {"heart": 8, "left_lung": 4, "right_lung": 5}}'
)


def open_segmenter(location: str) -> Extractor:
  """Opens NAME.onnx: an extractor of `QUANTITIES`, 0 where an organ is not seen.

  Raises:
    errors.InputError: no such files, no onnxruntime, or a model that does not fit.
  """
  described = user_network.read(
    location, (onnx_network.SUFFIX,), ("channels", "threshold"), _EXAMPLE
  )
  channels, threshold = described.values["channels"], described.values["threshold"]
  valid = isinstance(channels, Mapping) and sorted(channels) == sorted(_ORGANS)
  places = [channels[name] for name in _ORGANS] if valid else []
  numbers = all(isinstance(k, int) and k >= 0 for k in places)
  if not valid or not numbers or not isinstance(threshold, (int, float)):
    raise described.refused(_EXAMPLE)
  network = onnx_network.open_network(
    described,
    f"scores [b c h w] with channels {places}",
    lambda one: len(one) == 3 and max(places) < one[0],
  )

  def measure(scores: np.ndarray) -> np.ndarray:
    return np.stack([quantities(one > threshold) for one in scores[:, places]])

  return onnx_network.as_extractor(
    described, network, "heart and lungs", width=len(QUANTITIES), post_fn=measure
  )


def measure(
  segmenter: Extractor,
  images: types.Arrays,
  progress: types.Progress = types.no_progress,
) -> dict[str, np.ndarray]:
  """`QUANTITIES` of n images -> [n] float64, NaN where an organ is not seen."""
  values = extractor_lib.extract(segmenter, images, progress=progress)
  known = np.where(values > 0, values.astype(np.float64), np.nan)
  return dict(zip(QUANTITIES, known.T, strict=True))


def quantities(masks: np.ndarray) -> np.ndarray:
  """`QUANTITIES` [3] of masks [3 h w] bool of heart, left and right lung; 0 unseen."""
  heart, left, right = (_largest(mask) for mask in masks)
  widths = [np.ptp(np.flatnonzero(mask.any(axis=0))) + 1 if mask.any() else 0
            for mask in (heart, left | right)]  # fmt: skip
  seen = heart.any() and left.any() and right.any()
  ratio = widths[0] / widths[1] if seen else 0.0
  return np.array([ratio, right.mean(), left.mean()], np.float32)


def _largest(mask: np.ndarray) -> np.ndarray:
  """The largest connected region of a mask: stray pixels would widen it."""
  from scipy import ndimage

  regions = np.zeros(mask.shape, np.int32)
  if not ndimage.label(mask, output=regions):
    return mask
  return regions == 1 + np.argmax(np.bincount(regions.ravel())[1:])
