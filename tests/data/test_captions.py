"""Draws of captions have the rates that the settings say."""

import collections

import numpy as np
import pytest

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.data import captions


def test_draw_of_a_row_does_not_depend_on_the_first():
  whole = captions.draw(5, 0, 40)
  assert ((whole >= 0) & (whole < 1)).all()
  np.testing.assert_array_equal(captions.draw(5, 7, 20), whole[7:27])
  assert len(np.unique(whole)) == whole.size
  assert not np.array_equal(captions.draw(6, 0, 40), whole)


def test_choose_takes_every_caption_and_leaves_out_each_field_at_the_rate():
  some = captions.Captions(num=4, drop=0.3)
  draws = [some.choose(row) for row in captions.draw(0, 0, 2000)]
  count = collections.Counter(caption for caption, _ in draws)
  assert sorted(count) == [0, 1, 2, 3]
  assert min(count.values()) > 400
  assert all(not unknown for caption, unknown in draws if caption == 0)
  others = [unknown for caption, unknown in draws if caption]
  for name in captions.UNKNOWN:
    share = np.mean([name in unknown for unknown in others])
    assert share == pytest.approx(0.3, abs=0.05)
  assert sum(len(unknown) == 4 for unknown in others) > 2


def test_choose_of_one_caption_leaves_nothing_out():
  chosen = {captions.NO_CAPTIONS.choose(row) for row in captions.draw(0, 0, 50)}
  assert chosen == {(0, ())}


def test_without_makes_fields_unknown():
  record = {
    "findings": np.float32([1, 0]),
    "view": np.int32(1),
    "sex": np.int32(0),
    "age": np.float32(40),
    "row": np.int32(3),
  }
  blank = captions.without(record, ("findings", "view", "age"))
  assert np.isnan(blank["findings"]).all()
  assert np.isnan(blank["age"])
  assert (int(blank["view"]), int(blank["sex"]), int(blank["row"])) == (-1, 0, 3)
  assert {name: value.dtype for name, value in blank.items()} == {
    name: value.dtype for name, value in record.items()
  }


@pytest.mark.parametrize(("num", "drop"), [(0, 0.1), (4, -0.1), (4, 1.5)])
def test_check_refuses_values_out_of_range(num, drop):
  with pytest.raises(errors.InputError, match=r"config\.data\.caption"):
    captions.Captions(num=num, drop=drop)
