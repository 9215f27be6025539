"""Phantoms: seeded by index alone, anatomically right, findings visible where named."""

import dataclasses

import numpy as np
import pytest

from cxr_diffusion_jax.data.sources.nih import metadata
from cxr_diffusion_jax.extras.phantom import anatomy as phantom_anatomy
from cxr_diffusion_jax.extras.phantom import render as phantom

FOCAL = (
  "Atelectasis",
  "Consolidation",
  "Effusion",
  "Infiltration",
  "Mass",
  "Nodule",
  "Pneumothorax",
)


def _make(index, *findings, size=64, view="PA"):
  return phantom.make_phantom(7, index, size=size, findings=findings, view=view)


def _region(image, box):
  """The pixels of `box`, and those of its mirror image across the midline."""
  size = len(image)
  rows = slice(int(box.y * size), int(np.ceil((box.y + box.h) * size)))
  columns = slice(int(box.x * size), int(np.ceil((box.x + box.w) * size)))
  return image[rows, columns], image[:, ::-1][rows, columns]


def _gain(index, name):
  """How much brighter `name` makes its boxes than the rest, in grey levels.

  Of a pneumothorax, whose box holds the collapsed lung too, the darkest fifth counts.
  """
  ill, well = _make(index, name), _make(index)
  change = ill.image.astype(float) - well.image
  # The display adapts to the whole image: what changes everywhere is no sign.
  change -= np.median(change)
  here = np.concatenate([_region(change, box)[0].ravel() for box in ill.boxes])
  return np.quantile(here, 0.2) if name == "Pneumothorax" else here.mean()


def test_make_phantom_depends_only_on_seed_and_index():
  first = phantom.make_phantom(3, 5, size=64)
  phantom.make_phantom(3, 6, size=64)
  again = phantom.make_phantom(3, 5, size=64)
  np.testing.assert_array_equal(first.image, again.image)
  assert first.boxes == again.boxes
  assert not np.array_equal(first.image, phantom.make_phantom(3, 6, size=64).image)
  assert not np.array_equal(first.image, phantom.make_phantom(4, 5, size=64).image)


@pytest.mark.parametrize("size", [32, 48, 96])
def test_render_gives_square_grey_images_of_full_range(size):
  image = _make(0, size=size).image
  assert image.shape == (size, size)
  assert image.dtype == np.uint8
  assert np.ptp(np.percentile(image, [2, 98])) > 100


def test_render_shows_the_same_scene_at_all_sizes():
  for index in range(3):
    large = _make(index, size=128, view="AP").image.reshape(64, 2, 64, 2)
    small = _make(index, size=64, view="AP").image
    assert np.corrcoef(large.mean((1, 3)).ravel(), small.ravel())[0, 1] > 0.97


def test_render_has_dark_lungs_and_a_bright_spine_and_abdomen():
  mean = np.mean([_make(index).image for index in range(12)], axis=0)
  lungs = np.concatenate([mean[24:34, 15:23], mean[24:34, 42:50]]).mean()
  assert mean[26:40, 30:34].mean() > lungs + 50
  assert mean[54:60, 20:44].mean() > lungs + 50


def test_render_puts_the_heart_on_the_viewers_right():
  mean = np.mean([_make(index).image for index in range(12)], axis=0)
  rows = slice(36, 44)
  assert mean[rows, 38:44].mean() > mean[rows, 20:26].mean() + 15


def test_render_separates_cardiomegaly_by_the_cardiothoracic_ratio():
  views = ("PA", "AP")
  normal = [
    _make(i, view=view).cardiothoracic_ratio for i in range(8) for view in views
  ]
  large = [
    _make(i, "Cardiomegaly", view=view).cardiothoracic_ratio
    for i in range(8)
    for view in views
  ]
  assert max(normal) < 0.53
  assert min(large) > 0.55


def test_render_cardiomegaly_brightens_the_lower_lungs_beside_the_heart():
  change = np.mean(
    [_make(i, "Cardiomegaly").image.astype(float) - _make(i).image for i in range(8)],
    axis=0,
  )
  assert change[36:44, 40:48].mean() > 25


@pytest.mark.parametrize("name", FOCAL)
def test_render_shows_focal_findings_in_their_box_at_64_pixels(name):
  gains = np.array([_gain(index, name) for index in range(8)])
  sign = -1 if name == "Pneumothorax" else 1
  assert np.median(sign * gains) > 8
  assert (sign * gains > 2).mean() > 0.8


def test_render_effusion_fills_the_costophrenic_angle_of_its_side():
  for index in range(6):
    ill, well = _make(index, "Effusion"), _make(index)
    change = ill.image.astype(float) - well.image
    box = ill.boxes[0]
    is_left = box.x + box.w / 2 > 0.5
    outer = slice(48, 54) if is_left else slice(10, 16)
    rows = slice(int((box.y + 0.3 * box.h) * 64), int((box.y + 0.8 * box.h) * 64))
    assert change[rows, outer].mean() > change[rows, ::-1][:, outer].mean() + 10


def test_render_pneumothorax_has_no_texture_beyond_its_line():
  person = phantom_anatomy.sample_patient(np.random.default_rng(1))
  study = phantom_anatomy.sample_study(
    np.random.default_rng(2), person, findings=("Pneumothorax",), view="PA"
  )
  lesion = dataclasses.replace(study.lesions[0], extent=0.9)
  quiet = dataclasses.replace(study, lesions=(lesion,), noise=0.0)
  well = dataclasses.replace(quiet, lesions=())
  darker = phantom.render(person, quiet, size=128).image.astype(float)
  darker -= phantom.render(person, well, size=128).image
  here, _ = _region(darker, phantom.render(person, quiet, size=128).boxes[0])
  assert np.percentile(here, 10) < -25


def test_render_edema_is_bilateral_and_central():
  change = np.mean(
    [_make(i, "Edema").image.astype(float) - _make(i).image for i in range(8)], axis=0
  )
  for columns in (slice(20, 26), slice(38, 44)):
    assert change[24:34, columns].mean() > 15


def test_render_emphysema_lowers_the_diaphragm_and_enlarges_the_lungs():
  for index in range(5):
    ill, well = _make(index, "Emphysema"), _make(index)
    assert min(ill.diaphragm) > max(well.diaphragm)
    assert sum(ill.lung_area) > sum(well.lung_area)


def test_render_atelectasis_raises_the_diaphragm_of_its_side():
  for index in range(6):
    ill, well = _make(index, "Atelectasis"), _make(index)
    box = ill.boxes[0]
    side = int(box.x + box.w / 2 > 0.5)
    assert ill.diaphragm[side] < well.diaphragm[side] - 0.04
    assert ill.diaphragm[1 - side] == well.diaphragm[1 - side]
    assert ill.lung_area[side] < well.lung_area[side]


def test_render_nodules_are_smaller_than_three_centimetres_and_masses_larger():
  for index in range(12):
    for name in ("Nodule", "Mass"):
      result = _make(index, name, size=128)
      for box in result.boxes:
        longest = max(box.w, box.h) * 128 * result.pixel_cm
        if name == "Nodule":
          # A box is whole pixels: one more than the ball at most.
          assert 1.3 < longest < 3 + result.pixel_cm
        else:
          assert 3 < longest < 11


@pytest.mark.parametrize("name", phantom_anatomy.RENDERED)
def test_render_names_and_boxes_every_finding(name):
  result = _make(11, name, view="AP")
  assert result.findings == (name,)
  assert name in metadata.FINDINGS
  assert {box.finding for box in result.boxes} == {name}
  for box in result.boxes:
    assert 0 <= box.x < box.x + box.w <= 1
    assert 0 <= box.y < box.y + box.h <= 1


def test_render_shows_both_of_a_pair():
  for pair in phantom_anatomy.COMPATIBLE:
    result = _make(1, *pair, size=32)
    assert result.findings == tuple(sorted(pair))
    assert {box.finding for box in result.boxes} == set(pair)


def test_make_phantom_keeps_the_body_of_a_patient():
  one = phantom.make_phantom(0, 1, size=64, patient=9, findings=(), view="PA")
  two = phantom.make_phantom(0, 2, size=64, patient=9, findings=(), view="PA")
  assert (one.age, one.sex) == (two.age, two.sex)
  assert not np.array_equal(one.image, two.image)
  sexes = {phantom.make_phantom(0, i, size=32).sex for i in range(12)}
  assert sexes == {"F", "M"}


def test_sample_findings_has_the_intended_frequencies():
  rng = np.random.default_rng(0)
  drawn = [phantom_anatomy.sample_findings(rng) for _ in range(3000)]
  none = np.mean([not names for names in drawn])
  assert 0.37 < none < 0.43
  assert {len(names) for names in drawn} == {0, 1, 2}
  shown = {name for names in drawn for name in names}
  assert shown == set(phantom_anatomy.RENDERED)
