"""How classifiers of findings and regressors of anatomy are built and trained.

image size, number of images, network -> ProbeSettings
"""

from collections.abc import Mapping
import dataclasses
from types import MappingProxyType

import jax

from cxr_diffusion_jax import artifacts, naming

# Pixels of a side that a network sees at most; larger images are reduced to it.
MAX_SIDE = 224

# Name -> the fields of `ProbeSettings` that make a network. The second is ResNet-18
# with pre-activation, for accelerators.
NETWORKS: Mapping[str, artifacts.Json] = MappingProxyType({
  "small": {},
  "resnet18": {"widths": (64, 128, 256, 512), "blocks": 2, "norm_groups": 32},
})  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProbeSettings:
  """How a probe is built and trained; the defaults are for images of 64 pixels.

  Attributes:
    stem_stride: twice the size needs twice the stride for the same time.
    num_steps: updates, at most where there is a patience.
    check_every: updates between two figures of the validation images.
    patience: figures in a row that are no better, which end the training; its result
      has the best figure. 0 for exactly `num_steps`.
    batch_size: images in an update, and in a call of `Probe.scores`.
    max_positive_weight: limit of w above, which a finding of one in six images reaches
      at 5: rare findings count for more, but not all of the loss.
  """

  widths: tuple[int, ...] = (16, 32, 64, 128)
  blocks: int = 1
  stem_stride: int = 2
  norm_groups: int = 8
  num_steps: int = 1800
  check_every: int = 100
  patience: int = 5
  batch_size: int = 64
  learning_rate: float = 3e-3
  weight_decay: float = 0.05
  max_positive_weight: float = 5.0
  seed: int = 0


def default_settings(
  image_size: int, num_images: int, *, network: str = "", **changes: int
) -> ProbeSettings:
  """Settings for this number of training images of `image_size` pixels.

  Args:
    network: of `NETWORKS`; "" for "resnet18" on accelerators, "small" on CPUs.
    changes: to other fields.
  """
  on_cpu = jax.default_backend() == "cpu"
  name = network or ("small" if on_cpu else "resnet18")
  fields = naming.choose("network", name, NETWORKS)
  settings = ProbeSettings(
    # 28 to 64 places a side in the first stage.
    stem_stride=max(2, min(image_size, MAX_SIDE) // 56),
    num_steps=1800 if on_cpu else 20_000,
    **fields,
  )
  # Of many images, a quarter of a pass.
  every = max(settings.check_every, num_images // (4 * settings.batch_size))
  return dataclasses.replace(settings, **{"check_every": every, **changes})
