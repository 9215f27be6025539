"""Columns of a BERT: made once from the prompts, also with the stand-in."""

import pathlib

import numpy as np
import pytest

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.data.columns import column as columns_lib
from cxr_diffusion_jax.encoders import base, encoding, opening
from cxr_diffusion_jax.encoders.bert import model as bert_model
from cxr_diffusion_jax.encoders.columns import bert as bert_columns

TORCH = pathlib.Path(__file__).parents[1] / "bert" / "torch_bert"


@pytest.mark.parametrize("model", [str(TORCH / "cxr_bert"), "standin"])
def test_bert_columns_have_the_encoders_numbers(
  model, settings, with_standin, open_records, monkeypatch
):
  settings = with_standin if model == "standin" else settings
  records = open_records(settings)
  needs = base.needs("bert_text", "bert_cls", model=model)
  opening.make(settings, records, needs)
  columns = opening.open_columns(settings, needs)
  prompts = encoding.record_prompts(settings, records, "validation")
  (about, _) = (column.description for column in columns)
  encoder = opening.open_encoder(needs.specs[0], about, [settings.standin_clip])
  wanted = encoder.encode_text(needs.columns, prompts)
  assert encoder.encode_images(["elixrc"], []) == {}
  assert about.standin == (model == "standin")
  for column in columns:
    name = column.description.name
    stored = np.stack(list(column.source("validation")))
    np.testing.assert_allclose(stored, wanted[name], rtol=1e-2, atol=1e-3)
    assert column.description.shape == encoder.shapes[name]
  # A second call opens no weights.
  monkeypatch.setattr(bert_model, "load", None)
  opening.make(settings, records, needs)
  folder = encoding.folder(settings, needs.specs[0])
  assert columns_lib.open_column(folder, "bert_text") is not None


def test_bert_spec_needs_a_model():
  with pytest.raises(errors.InputError, match="column bert_text without a BERT"):
    bert_columns.spec("bert_text")
