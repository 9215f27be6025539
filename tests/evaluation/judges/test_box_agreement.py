"""Maps and boxes whose agreement can be computed by hand."""

import numpy as np
import pytest

from cxr_diffusion_jax.evaluation.judges import localisation

WHOLE = [0, 0, 1, 1]


def _spot(y, x, side=8):
  spot = np.zeros((side, side), np.float32)
  spot[y, x] = 2.0
  return spot


def test_agreement_of_a_map_equal_to_its_box_is_complete():
  covered = np.zeros((1, 8, 8), np.float32)
  covered[0, 2:4, 1:3] = 3.0
  own = localisation.agreement(covered, np.array([[1 / 8, 2 / 8, 2 / 8, 2 / 8]]))
  values = {name: float(figure[0]) for name, figure in own.items()}
  assert values == pytest.approx(
    {"pointing_game": 1, "energy": 1, "concentration": 16, "iou": 1, "side": 1}
  )


def test_compare_gives_an_even_map_the_share_of_the_box():
  boxes = np.array([[0.2, 0.1, 0.3, 0.45], WHOLE])
  result = localisation.compare(np.ones((1, 16, 16)), boxes)
  np.testing.assert_allclose(result["energy"], [[0.135, 1]])
  np.testing.assert_allclose(result["concentration"], [[1, 1]])
  np.testing.assert_allclose(result["iou"], [[0.135, 1]])
  np.testing.assert_array_equal(result["side"], [[0.5, np.nan]])


def test_compare_counts_partly_covered_places():
  # The box covers three quarters of place (0, 0) and a quarter of (0, 1), over y half.
  boxes = np.array([[0.125, 0.0, 0.5, 0.25]])
  maps = np.stack([_spot(0, 0, 2), _spot(0, 1, 2), _spot(1, 0, 2)])
  result = localisation.compare(maps, boxes)
  np.testing.assert_allclose(result["energy"][:, 0], [0.375, 0.125, 0])
  # shared / (1 + area in places - shared)
  np.testing.assert_allclose(result["iou"][0, 0], 0.375 / (1 + 0.5 - 0.375))


@pytest.mark.parametrize(
  ("y", "x", "hit"), [(3, 3, 1), (4, 4, 1), (2, 3, 1), (1, 3, 0), (3, 6, 0)]
)
def test_compare_lets_the_pointing_game_miss_by_half_a_place(y, x, hit):
  # Middles at (place + 0.5) / 8; the box begins at 2.75 places and ends at 5.25.
  box = np.array([[2.75, 2.75, 2.5, 2.5]]) / 8
  result = localisation.compare(_spot(y, x)[None], box)
  assert result["pointing_game"][0, 0] == hit


def test_compare_counts_a_map_of_zeros_as_a_miss():
  result = localisation.compare(np.zeros((1, 4, 4)), np.array([WHOLE]))
  assert result["pointing_game"] == result["energy"] == result["iou"] == 0


def test_compare_takes_the_half_with_more_of_the_map_as_its_side():
  left, right, across = [0.1, 0, 0.3, 1], [0.6, 0, 0.4, 1], [0.4, 0, 0.3, 1]
  maps = np.stack([_spot(4, 1) + _spot(5, 2), _spot(0, 7)])
  maps[0, 0, 7] = 3.0  # The highest place, but less than the left half's sum.
  result = localisation.compare(maps, np.array([left, right, across]))
  np.testing.assert_array_equal(result["side"], [[1, 0, np.nan], [0, 1, np.nan]])


def test_own_boxes_are_the_diagonal_however_many(monkeypatch):
  rng = np.random.default_rng(0)
  maps, low = rng.random((7, 6, 6)), rng.random((7, 2)) / 2
  boxes = np.concatenate([low, 0.1 + rng.random((7, 2)) / 3], axis=1)
  whole = localisation.agreement(maps, boxes)
  monkeypatch.setattr(localisation, "MAX_OTHERS", 3)
  for name, figure in localisation.agreement(maps, boxes).items():
    np.testing.assert_allclose(figure, whole[name], rtol=1e-12)


def test_agreement_baseline_uses_other_images_with_the_finding():
  spots = [(1, 1), (6, 6), (1, 1), (6, 6)]
  maps = np.stack([_spot(y, x) for y, x in spots])
  boxes = np.array([[x / 8, y / 8, 1 / 8, 1 / 8] for y, x in spots])
  findings, images = np.array([0, 0, 0, 5]), np.array([0, 1, 2, 0])
  result = localisation.agreement_of_others(maps, boxes, images, findings)
  # Of image 0 the others are 1 and 2, of which one has it at the same place.
  np.testing.assert_array_equal(result["energy"], [0.5, 0, 0.5, np.nan])
  # Boxes of the same image do not count, though they are of the same finding.
  images = np.array([0, 1, 0, 0])
  result = localisation.agreement_of_others(maps, boxes, images, findings)
  np.testing.assert_array_equal(result["energy"], [0, 0, 0, np.nan])


def test_agreement_of_random_maps_is_no_better_with_their_own_boxes():
  rng = np.random.default_rng(1)
  low = rng.random((400, 2)) * 0.7
  boxes = np.concatenate([low, np.full((400, 2), 0.3)], axis=1)
  maps = rng.random((400, 8, 8))
  own = localisation.agreement(maps, boxes)
  same = np.zeros(400, int)
  others = localisation.agreement_of_others(maps, boxes, np.arange(400), same)
  assert abs(own["energy"].mean() - others["energy"].mean()) < 0.005
  assert abs(own["pointing_game"].mean() - others["pointing_game"].mean()) < 0.06
  assert abs(np.nanmean(own["side"]) - 0.5) < 0.1
