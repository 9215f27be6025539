"""Rows in batches of few sizes: every row counts once, in order."""

import numpy as np
import pytest

from cxr_diffusion_jax.parallel import batches


@pytest.mark.parametrize("num_rows", [1, 2, 3, 7, 8, 9, 16, 17, 30])
@pytest.mark.parametrize("powers", [False, True])
def test_in_batches_returns_every_row_once_in_order(num_rows, powers):
  sizes = []

  def fn(rows):
    sizes.append(len(rows))
    return {"row": rows, "pair": (rows, rows[:, None] * np.ones(3))}

  result = batches.in_batches(fn, num_rows, 8, powers=powers, multiple=2)
  np.testing.assert_array_equal(result["row"], np.arange(num_rows))
  assert result["pair"][1].shape == (num_rows, 3)
  assert set(sizes) <= ({2, 4, 8} if powers else {8})


def test_batch_rows_fills_up_with_the_last_row():
  (rows, count), *rest = batches.batch_rows(3, 5)
  assert (rows.tolist(), count, rest) == ([0, 1, 2, 2, 2], 3, [])
  (rows, count), *_ = batches.batch_rows(5, 16, powers=True, multiple=2)
  assert (len(rows), count) == (8, 5)


def test_in_batches_refuses_no_rows():
  with pytest.raises(ValueError, match="no rows"):
    batches.in_batches(lambda rows: rows, 0, 4)
