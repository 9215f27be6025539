"""Colours and markers of paths."""

import numpy as np
import pytest

from cxr_diffusion_jax.report.comparison import palette


def test_looks_depend_on_the_place_and_differ():
  many = [f"path{i}" for i in range(12)]
  looks = palette.looks(many)
  assert palette.looks(many[:3]) == {name: looks[name] for name in many[:3]}
  assert len({(look.color, look.marker) for look in looks.values()}) == 12


@pytest.mark.parametrize(
  ("colors", "paper"), [(palette.LIGHT, "#ffffff"), (palette.DARK, "#1a1e25")]
)
def test_palette_has_contrast_to_the_paper(colors, paper):
  def luminance(color: str) -> float:
    parts = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])

  for color in colors:
    dark, light = sorted((luminance(color), luminance(paper)))
    assert (light + 0.05) / (dark + 0.05) >= 3
