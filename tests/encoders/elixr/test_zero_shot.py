"""Margins by two sentences a finding, and the encoder that gives them."""

import types as python_types

import numpy as np
import pytest

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.data.settings import DataSettings
from cxr_diffusion_jax.data.sources.nih import metadata
from cxr_diffusion_jax.encoders.elixr import zero_shot
from cxr_diffusion_jax.encoders.elixr.zero_shot import PROMPTS
from tests.prompt_reader import findings_of


def test_margins_are_differences_of_the_best_cosines():
  generator = np.random.default_rng(0)
  outputs = generator.standard_normal((3, 4, 5))
  texts = generator.standard_normal((2, 6, 5))

  def best(image, text):
    return max(x @ text / np.linalg.norm(x) / np.linalg.norm(text) for x in image)

  result = zero_shot.margins(outputs, *texts)
  expected = [
    [best(image, a) - best(image, b) for a, b in zip(*texts, strict=True)]
    for image in outputs
  ]
  np.testing.assert_allclose(result, expected, atol=1e-6)
  np.testing.assert_allclose(
    zero_shot.margins(7 * outputs, *(0.1 * texts)), result, atol=1e-6
  )
  assert zero_shot.margins(texts[:1, :1], texts[0, :1], -texts[0, :1]) == pytest.approx(
    2
  )


def test_zero_shot_sentences_name_only_their_finding():
  assert tuple(PROMPTS) == metadata.FINDINGS
  for name, (with_it, without_it) in PROMPTS.items():
    assert findings_of(with_it) == (name,)
    assert without_it != with_it


def test_open_scorer_of_a_standin_negates_with_no_finding(tmp_path, monkeypatch):
  settings = DataSettings(
    root=str(tmp_path), image_size=32, records_dir=str(tmp_path / "records")
  )
  reason = zero_shot.open_scorer(settings)
  assert isinstance(reason, str)
  assert "standin_clip" in reason
  with pytest.raises(errors.InputError, match="no ELIXR in"):
    zero_shot.open_scorer(settings, elixr_models=str(tmp_path / "none"))
  settings.standin_clip.mkdir(parents=True)
  texts = []

  def open_encoder(folder):
    def encode_text(columns, given):
      texts.extend(given)
      return {columns[0]: np.eye(128)[: len(given)]}

    return python_types.SimpleNamespace(encode_text=encode_text)

  monkeypatch.setattr(zero_shot.standin_elixr, "load", open_encoder)
  zero_shot.open_scorer(settings)
  assert texts[::2] == [with_it for with_it, _ in PROMPTS.values()]
  assert set(texts[1::2]) == {"no finding"}
