"""Figures of images and of classifiers against six independent implementations.

scipy (the root of a matrix), scikit-learn, scikit-image, torch-fidelity, torchmetrics
and prdc, on the same features, images and scores. Differences are relative.
"""

from collections.abc import Iterator
import contextlib
import io

import numpy as np
import prdc
import scipy.linalg
import scipy.ndimage
import skimage.metrics
from sklearn import metrics as sklearn_metrics
import torch
from torch_fidelity import metric_fid, metric_kid, metric_prc
from torchmetrics.functional import image as torch_image
from torchmetrics.image import fid as torchmetrics_fid
from torchmetrics.image import kid as torchmetrics_kid

from cxr_diffusion_jax.evaluation.metrics import (
  diversity,
  frechet,
  kernels,
  neighbourhoods,
  ranking,
)

LIMIT = 1e-4

# What was compared, ours, the peer's, their relative difference, its limit.
Row = tuple[str, float, float, float, float]


def rows() -> Iterator[Row]:
  """Yields the comparisons."""
  rng = np.random.default_rng(0)
  for num, width in ((700, 64), (300, 512)):
    mix = rng.standard_normal((width, width)) / np.sqrt(width)
    a = np.float32(np.maximum(rng.standard_normal((num, width)) @ mix, -1))
    b = np.float32(rng.standard_normal((num, width)) @ mix * 0.9 + 0.05)
    what = f"{num} x {width}"
    yield from _frechet(what, a, b)
    yield from _kernels(what, a, b)
    yield from _neighbours(what, a, b)
  yield from _images(rng)
  yield from _scores(rng)


def _row(what: str, ours: float, peer: float) -> Row:
  ours, peer = float(ours), float(peer)
  # Both 0 or both 1 would show nothing, but are no difference.
  difference = abs(ours - peer) / max(abs(peer), 1e-12)
  return what, ours, peer, difference, LIMIT


def _frechet(what: str, a: np.ndarray, b: np.ndarray) -> Iterator[Row]:
  ours = frechet.frechet_distance(a, b)
  first, second = (np.cov(np.float64(x), rowvar=False) for x in (a, b))
  means = [x.mean(axis=0, dtype=np.float64) for x in (a, b)]
  apart = np.square(means[0] - means[1]).sum() + np.trace(first + second)
  root = scipy.linalg.sqrtm(first @ second).real
  peer = apart - 2 * np.trace(root)
  yield _row(f"Frechet distance, {what}: scipy", ours, peer)
  statistics = [
    metric_fid.fid_features_to_statistics(torch.from_numpy(x)) for x in (a, b)
  ]
  theirs = metric_fid.fid_statistics_to_metric(*statistics, verbose=False)
  peer = theirs[metric_fid.KEY_METRIC_FID]
  yield _row(f"Frechet distance, {what}: torch-fidelity", ours, peer)
  arrays = [torch.from_numpy(x) for x in (means[0], first, means[1], second)]
  peer = torchmetrics_fid._compute_fid(*arrays)
  yield _row(f"Frechet distance, {what}: torchmetrics", ours, peer)


def _kernels(what: str, a: np.ndarray, b: np.ndarray) -> Iterator[Row]:
  x, y = np.float64(a), np.float64(b)
  ours, spread = kernels.kernel_distance(a, b, 20, 100)
  subsets = list(kernels.random_subsets(len(a), len(b), 20, 100, 0))
  pairs = [(x[i], y[j]) for i, j in subsets]
  options = {
    "kid_kernel": "poly",
    "kid_kernel_poly_degree": 3,
    "kid_kernel_poly_gamma": None,
    "kid_kernel_poly_coef0": 1,
  }
  of_torch_fidelity = [metric_kid.kernel_mmd(*pair, **options) for pair in pairs]
  of_torchmetrics = [
    float(torchmetrics_kid.poly_mmd(*map(torch.from_numpy, pair))) for pair in pairs
  ]
  of_scikit_learn = [_mmd(*pair) for pair in pairs]
  for name, peers in (
    ("scikit-learn", of_scikit_learn),
    ("torch-fidelity", of_torch_fidelity),
    ("torchmetrics", of_torchmetrics),
  ):
    yield _row(f"kernel distance, {what}: {name}", ours, np.mean(peers))
    yield _row(f"its deviation, {what}: {name}", spread, np.std(peers))
  x, y = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (x, y))
  kernel = [
    sklearn_metrics.pairwise.rbf_kernel(*of, gamma=1 / 200).mean()
    for of in ((x,), (y,), (x, y))
  ]
  peer = 1000 * (kernel[0] + kernel[1] - 2 * kernel[2])
  yield _row(f"CMMD, {what}: scikit-learn", kernels.cmmd(a, b), peer)


def _mmd(x: np.ndarray, y: np.ndarray) -> float:
  xx, yy, xy = (
    sklearn_metrics.pairwise.polynomial_kernel(*of) for of in ((x,), (y,), (x, y))
  )
  within = [(k.sum() - np.trace(k)) / (len(k) * (len(k) - 1)) for k in (xx, yy)]
  return sum(within) - 2 * xy.mean()


def _neighbours(what: str, a: np.ndarray, b: np.ndarray) -> Iterator[Row]:
  with contextlib.redirect_stdout(io.StringIO()):
    three, five = (prdc.compute_prdc(a, b, nearest_k=k) for k in (3, 5))
  precision, recall = neighbourhoods.precision_recall(a, b)
  density, coverage = neighbourhoods.density_coverage(a, b)
  yield _row(f"precision, {what}: prdc", precision, three["precision"])
  yield _row(f"recall, {what}: prdc", recall, three["recall"])
  yield _row(f"density, {what}: prdc", density, five["density"])
  yield _row(f"coverage, {what}: prdc", coverage, five["coverage"])
  theirs = metric_prc.calculate_precision_recall_full(
    torch.from_numpy(b), torch.from_numpy(a)
  )
  yield _row(f"precision, {what}: torch-fidelity", precision, theirs[0])
  yield _row(f"recall, {what}: torch-fidelity", recall, theirs[1])


def _images(rng: np.random.Generator) -> Iterator[Row]:
  for side, channels in ((176, 1), (192, 3)):
    x = rng.uniform(size=(2, side, side, channels))
    x = np.float32(scipy.ndimage.gaussian_filter(x, (0, 2, 2, 0)) * 3 - 1).clip(0, 1)
    y = np.float32(x + 0.1 * rng.standard_normal(x.shape)).clip(0, 1)
    pair = [torch.from_numpy(v.transpose(0, 3, 1, 2)) for v in (x, y)]
    what = f"{side}x{side}, {channels} channels: torchmetrics"
    peer = _windows(*pair)[0].mean()
    yield _row(f"SSIM, {what}", diversity.ssim(x, y).mean(), peer)
    peer = _ms_ssim(*pair).mean()
    yield _row(f"MS-SSIM, {what}", diversity.ms_ssim(x, y).mean(), peer)
    peer = torch_image.peak_signal_noise_ratio(
      *pair, data_range=1.0, dim=(1, 2, 3), reduction="none"
    )
    yield _row(f"PSNR, {what}", diversity.psnr(x, y).mean(), peer.mean())
    peer = np.mean(
      [_scikit_image(*of, channel_axis=-1) for of in zip(x, y, strict=True)]
    )
    what = what.replace("torchmetrics", "scikit-image")
    yield _row(f"SSIM, {what}", diversity.ssim(x, y).mean(), peer)


def _scikit_image(x: np.ndarray, y: np.ndarray, **options) -> float:
  return skimage.metrics.structural_similarity(
    *(np.float64(v) for v in (x, y)),
    data_range=1.0,
    gaussian_weights=True,
    sigma=1.5,
    use_sample_covariance=False,
    **options,
  )


def _windows(x: torch.Tensor, y: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
  """SSIM and its contrast [b c] of torchmetrics, of windows that lie in the image.

  Its own mean counts windows over the edge, which see the image mirrored: the paper
  has none, nor has scikit-image's.
  """
  planes = [v.reshape(-1, 1, *v.shape[2:]) for v in (x, y)]
  ssim = torch_image.structural_similarity_index_measure
  options = {"data_range": 1.0, "reduction": "none"}
  _, full = ssim(*planes, **options, return_full_image=True)
  _, contrast = ssim(*planes, **options, return_contrast_sensitivity=True)
  similarity = full[..., 5:-5, 5:-5].mean(dim=(1, 2, 3))
  return tuple(v.reshape(x.shape[:2]).numpy() for v in (similarity, contrast))


def _ms_ssim(x: torch.Tensor, y: torch.Tensor) -> np.ndarray:
  """Its product over five scales [b c], of the same windows."""
  product = np.ones(tuple(x.shape[:2]))
  for scale, weight in enumerate(diversity.SCALE_WEIGHTS):
    similarity, contrast = _windows(x, y)
    product *= (similarity if scale == 4 else contrast) ** weight
    x, y = (torch.nn.functional.avg_pool2d(v, 2) for v in (x, y))
  return product


def _scores(rng: np.random.Generator) -> Iterator[Row]:
  positive = rng.random(500) < 0.2
  scores = positive + rng.standard_normal(500)
  weights = np.ones((1, 500))
  for what, values in (("", scores), (", with ties", scores.round(1))):
    for name, ours, peer in (
      ("AUROC", ranking.auroc, sklearn_metrics.roc_auc_score),
      (
        "average precision",
        ranking.average_precision,
        sklearn_metrics.average_precision_score,
      ),
    ):
      value = ours(values, positive, weights)[0]
      yield _row(f"{name}{what}: scikit-learn", value, peer(positive, values))
