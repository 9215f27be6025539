"""What is computed from findings where they are known: rates, weights, AUROC."""

import numpy as np


def rates(findings: np.ndarray) -> np.ndarray:
  """Returns [k], the share of the images with it where it is known; nan for nowhere."""
  known = np.isfinite(findings)
  if known.all():
    return np.mean(findings, axis=0)
  number = known.sum(axis=0)
  present = np.where(known, findings, 0).sum(axis=0, dtype=np.float64)
  return np.where(number > 0, present / np.maximum(number, 1), np.nan)


def positive_weights(findings: np.ndarray, limit: float) -> np.ndarray:
  """Returns [k] float32 w of `probe_fit`; 1 for findings that no image has."""
  rate = np.nan_to_num(rates(findings))
  weights = np.clip((1 - rate) / np.maximum(rate, 1e-9), 1, limit)
  return np.where(rate > 0, weights, 1).astype(np.float32)


def log_odds(findings: np.ndarray, weights: np.ndarray) -> np.ndarray:
  """Returns [k] float32, the constant logits of least weighted loss."""
  rate = np.clip(np.nan_to_num(rates(findings), nan=0.5), 1e-3, 1 - 1e-3)
  return np.log(weights * rate / (1 - rate)).astype(np.float32)


def macro_auroc(scores: np.ndarray, findings: np.ndarray) -> float:
  """Mean AUROC of the findings that some images [n k] have and some have not; or 0.

  Images count where a finding is known.
  """
  areas = []
  for every, values in zip(scores.T, np.asarray(findings).T, strict=True):
    known = np.isfinite(values)
    score, present = every[known], values[known] > 0.5
    others = np.sort(score[~present])
    if 0 < len(others) < len(score):
      # Ties count one half.
      low = np.searchsorted(others, score[present], "left")
      high = np.searchsorted(others, score[present], "right")
      areas.append((low + high).mean() / 2 / len(others))
  return float(np.mean(areas)) if areas else 0.0
