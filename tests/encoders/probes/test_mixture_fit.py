"""Image sets are read for training with their unknown findings."""

import numpy as np
import pytest

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.data.image_sets import image_set
from cxr_diffusion_jax.encoders.probes import mixture_fit, probe_settings


def read(findings: np.ndarray) -> mixture_fit.Source:
  images = image_set.ImageSet(
    name="some",
    images=np.zeros((len(findings), 4, 4, 1), np.uint8),
    ids=np.array([str(row) for row in range(len(findings))]),
    labels={"findings": findings},
    vocabulary=("Edema", "Mass"),
  )
  return mixture_fit.read(images, lambda *_: None)


def test_read_keeps_what_is_unknown():
  whole = np.float32([[0, 1], [1, 0]])
  partly = np.float32([[0, np.nan], [1, 0]])
  assert read(whole).findings.dtype == np.uint8
  source = read(partly)
  np.testing.assert_array_equal(source.findings, partly)
  with pytest.raises(errors.InputError, match="0, 1 and nan"):
    read(np.float32([[0, 2]]))
  # Other labels are other scores.
  settings = probe_settings.ProbeSettings()
  marks = {
    mixture_fit.fingerprint(
      [mixture_fit.Phase(parts=[(one, np.arange(2))], settings=settings)], one, one
    )
    for one in (read(whole), source)
  }
  assert len(marks) == 2
