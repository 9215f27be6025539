"""Published and own embeddings of the same rows: how close, and closer than others."""

import numpy as np
import pytest

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.encoders.elixr import agreement
from tests.fixtures.elixr_files import write_elixr

TEXT, IMAGE = "contrastive_txt_emb", "contrastive_img_emb"


class Letters:
  """Encodes texts as counts of their letters, images as their first 128 means."""

  def encode_text(self, columns, prompts):
    counts = [[text.count(chr(32 + i)) for i in range(128)] for text in prompts]
    return {name: np.array(counts, np.float32) for name in columns}

  def encode_images(self, columns, images):
    rows = [np.resize(image.mean(axis=0), 128) - 128 for image in images]
    return {name: np.array(rows, np.float32) for name in columns}


def test_compare_of_equal_related_and_unrelated_rows():
  rng = np.random.default_rng(0)
  own = rng.standard_normal((50, 4, 16))
  same = agreement.compare(2 * own, own)
  assert same.cosine == pytest.approx(1, abs=1e-6)
  assert abs(same.cosine_of_others) < 0.05
  assert (same.nearest, same.median_rank) == (1, 1)
  noisy = agreement.compare(own + rng.standard_normal(own.shape), own)
  assert noisy.cosine == pytest.approx(1 / np.sqrt(2), abs=0.08)
  assert noisy.nearest > 0.9
  unrelated = agreement.compare(rng.standard_normal(own.shape), own)
  assert abs(unrelated.cosine) < 0.1
  assert unrelated.nearest < 0.15
  assert 15 < unrelated.median_rank < 35
  # Rows of one text are equally close.
  alike = agreement.compare(np.ones((5, 8)), np.ones((5, 8)))
  assert (alike.nearest, alike.median_rank) == (1, 3)
  assert "100% of 5, median rank 3" in alike.text


@pytest.mark.parametrize("kind", [TEXT, IMAGE])
def test_measure_encodes_the_rows_again(kind, settings, open_records):
  records = open_records(settings)
  ids = np.concatenate([records.ids(split) for split in records.num_rows])
  with pytest.raises(errors.InputError, match=f"0 of 24 records with {kind}"):
    agreement.measure(settings, records, kind, Letters(), 9)
  noise = np.random.default_rng(0).standard_normal((len(ids) - 4, 128))
  write_elixr(settings.root, kind, ids[4:], noise, encoder="other", standin=False)
  result = agreement.measure(settings, records, kind, Letters(), 9)
  assert result.num == 9
  assert abs(result.cosine) < 0.3
  assert agreement.measure(settings, records, kind, Letters(), 99).num == 20
