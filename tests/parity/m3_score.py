"""The three axes of the package m3-score against ours, of the same images.

200 phantoms against 200 others, as they are, blurred, and half of them copies of the
first set; features are means of blocks of pixels. m3-score's own encoder is a download.
"""

from collections.abc import Iterator

from m3score import protocol
from m3score import stats as peer
import numpy as np
import torch

from cxr_diffusion_jax.evaluation.metrics import kernels, neighbourhoods, neighbours
from cxr_diffusion_jax.extras.phantom import render

NUM, SIZE, BLOCK = 200, 32, 4
LIMIT = 1e-4

# What was compared, ours, the peer's, their difference, its limit.
Row = tuple[str, float, float, float, float]


def rows() -> Iterator[Row]:
  """Yields the comparisons."""
  images = np.stack(
    [render.make_phantom(0, i, size=SIZE).image for i in range(2 * NUM)]
  ).astype(np.float32)
  real, others = images[:NUM], images[NUM:]
  blurred = sum(np.roll(others, step, axis) for step in (-2, 2) for axis in (1, 2)) / 4
  copies = np.concatenate([real[: NUM // 2], others[: NUM // 2]])
  sets = {"other phantoms": others, "blurred": blurred, "half are copies": copies}
  for name, generated in sets.items():
    yield from _compare(name, _features(real), _features(generated))


def _features(images: np.ndarray) -> np.ndarray:
  side = SIZE // BLOCK
  blocks = images.reshape(-1, side, BLOCK, side, BLOCK).mean(axis=(2, 4))
  return blocks.reshape(len(images), -1) / 255


def _compare(name: str, real: np.ndarray, generated: np.ndarray) -> Iterator[Row]:
  tensors = [torch.from_numpy(x) for x in (real, generated)]
  both = {
    "fidelity": (_fidelity(real, generated), peer.mmd2_rbf(*tensors, clamp=False)),
    "memorization": (_near(real, generated), peer.memorization(*tensors)[0]),
    "coverage": (
      neighbourhoods.density_coverage(real, generated)[1],
      peer.coverage(*tensors),
    ),
  }
  pairs = zip(
    neighbourhoods.precision_recall(real, generated),
    peer.precision_recall(*tensors, k=neighbourhoods.PRECISION_K),
    strict=True,
  )
  both |= dict(zip(("precision", "recall"), pairs, strict=True))
  for figure, (ours, theirs) in both.items():
    yield f"{figure}: {name}", ours, theirs, abs(ours - theirs), LIMIT


def _fidelity(real: np.ndarray, generated: np.ndarray) -> float:
  """Our unbiased MMD with the five kernels of the protocol."""
  x, y = kernels.unit_rows(real), kernels.unit_rows(generated)
  pooled = np.concatenate([x, y])
  squares = np.square(pooled[:, None] - pooled[None]).sum(axis=-1)
  # PyTorch's median of an even number is the smaller of the two in the middle.
  above = np.sort(squares[np.triu_indices(len(pooled), 1)])
  median = above[(len(above) - 1) // 2]
  values = [
    kernels.unbiased(x, y, kernels.gaussian(float(median * scale) ** 0.5))
    for scale in protocol.RBF_BANDWIDTH_SCALES
  ]
  return float(np.mean(values))


def _near(real: np.ndarray, generated: np.ndarray) -> float:
  """Share nearer to a real image than half of the real ones to each other."""
  distances, _ = neighbours.nearest(real, real, 2)
  nearest, _ = neighbours.nearest(generated, real, 1)
  above = np.sort(distances[:, 1])
  return float((nearest[:, 0] < above[(len(above) - 1) // 2]).mean())
