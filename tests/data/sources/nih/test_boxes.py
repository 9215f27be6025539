"""`data/boxes.py`: boxes are joined by name and follow the crop and the pad."""

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.data import images, labels
from cxr_diffusion_jax.data.sources.nih import boxes, layout

HEADER = "Image Index,Finding Label,Bbox [x,y,w,h],,,\n"


def placed(box, source_size, mode):
  of_image = np.full((14, 4), np.nan)
  of_image[3] = box
  return boxes.boxes_in_square(of_image, source_size=source_size, mode=mode)[3]


def test_boxes_are_read_in_the_order_of_findings(tmp_path):
  path = tmp_path / "BBox_List_2017.csv"
  path.write_text(
    f"{HEADER}00000001_000.png,Infiltrate,1.5,2,30,40,,,\n"
    "00000001_000.png,Mass,5,6,7,8\n\n00000002_000.png,Mass,100,100,50,50\n"
    "00000002_000.png,Mass,200,80,10,10\n"
  )
  read = boxes.read_boxes(path)
  assert sorted(read) == ["00000001_000", "00000002_000"]
  infiltration = labels.FINDINGS.index("Infiltration")
  mass = labels.FINDINGS.index("Mass")
  assert read["00000001_000"][infiltration].tolist() == [1.5, 2, 30, 40]
  assert read["00000001_000"][mass].tolist() == [5, 6, 7, 8]
  assert np.isnan(read["00000001_000"]).all(axis=1).sum() == 12
  # Two of one finding: the box around both.
  assert read["00000002_000"][mass].tolist() == [100, 80, 110, 70]


@pytest.mark.parametrize("line", ["a.png,Mass,1,2,3", "a.png,Flu,1,2,3,4", "a.png"])
def test_bad_lines_are_named(tmp_path, line):
  path = tmp_path / "boxes.csv"
  path.write_text(HEADER + line + "\n")
  with pytest.raises(errors.InputError, match=r"boxes.csv line 2"):
    boxes.read_boxes(path)


@pytest.mark.parametrize("mode", images.MODES)
@pytest.mark.parametrize("size", [1024, 256])
def test_square_sources_have_the_fractions_of_1024(mode, size):
  box = placed([512, 256, 256, 128], (size, size), mode)
  assert box.tolist() == [0.5, 0.25, 0.25, 0.125]


def test_crop_and_pad_move_boxes():
  # 200 x 100: the crop keeps x in [50, 150], the pad puts 50 rows above.
  box = [50, 0, 100, 50]
  np.testing.assert_allclose(placed(box, (200, 100), "crop"), [0, 0, 1, 0.5])
  np.testing.assert_allclose(placed(box, (200, 100), "pad"), [0.25, 0.25, 0.5, 0.25])
  np.testing.assert_allclose(
    placed([0, 20, 75, 30], (200, 100), "crop"), [0, 0.2, 0.25, 0.3], rtol=1e-6
  )
  assert np.isnan(placed([0, 0, 40, 40], (200, 100), "crop")).all()


@given(
  width=st.integers(8, 60),
  height=st.integers(8, 60),
  mode=st.sampled_from(images.MODES),
  corner=st.tuples(st.floats(0, 0.8), st.floats(0, 0.8)),
)
def test_a_bright_box_stays_where_its_box_says(width, height, mode, corner):
  scale = 8
  image = np.zeros((height * scale, width * scale), np.uint8)
  x, y = int(corner[0] * width) * scale, int(corner[1] * height) * scale
  box = (x, y, 2 * scale, 2 * scale)
  image[y : y + 2 * scale, x : x + 2 * scale] = 255
  if width == height:
    box = tuple(value * boxes.NIH_SIZE / (width * scale) for value in box)
  size = 128
  square = images.resize(image, size, mode) > 127
  where = placed(box, (width * scale, height * scale), mode)
  if np.isnan(where).any():
    assert square.mean() < 1e-3
    return
  rows, columns = np.nonzero(square)
  low = where[:2] * size
  high = (where[:2] + where[2:]) * size
  if (high - low).min() > 3:
    measured = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    np.testing.assert_allclose(measured, [*low, *high], atol=1.5)


def test_real_boxes(nih_cxr_mini):
  read = boxes.read_boxes(layout.find_tree(nih_cxr_mini).boxes)
  present = [~np.isnan(of_image[:, 0]) for of_image in read.values()]
  assert np.sum(present) == 45
  for of_image in read.values():
    square = boxes.boxes_in_square(of_image, source_size=(256, 256), mode="crop")
    assert np.nanmin(square) >= 0
    assert np.nanmax(square[:, :2] + square[:, 2:]) <= 1 + 1e-6
