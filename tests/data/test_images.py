"""`data/images.py`: every PNG form gives the same grey; squares keep their aspect."""

import io
import struct
import zlib

from etils import epath
from hypothesis import given
from hypothesis import strategies as st
import numpy as np
from PIL import Image, ImageOps
import pytest

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.data import images, reference
from cxr_diffusion_jax.data.sources.nih import layout


def ramp(height: int, width: int) -> np.ndarray:
  x = np.linspace(0, 1, width)[np.newaxis] * np.linspace(0.2, 1, height)[:, np.newaxis]
  return (x * 255).astype(np.uint8)


def png(image: Image.Image, **options) -> bytes:
  file = io.BytesIO()
  image.save(file, format="PNG", **options)
  return file.getvalue()


def test_read_grey_is_exact_for_grey_modes():
  grey = ramp(20, 30)
  image = Image.fromarray(grey)
  alpha = Image.fromarray(np.random.default_rng(0).integers(0, 255, grey.shape, "u1"))
  rgba = Image.merge("RGBA", [image, image, image, alpha])
  palette = image.convert("P")
  forms = [
    image,
    image.convert("RGB"),
    rgba,
    Image.merge("LA", [image, alpha]),
    palette,
    Image.fromarray(grey.astype(np.uint16) * 257),
  ]
  for form in forms:
    read = images.read_grey(png(form))
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, grey, err_msg=form.mode)


def test_read_grey_takes_luminance_and_ignores_alpha():
  rgba = np.zeros((2, 2, 4), np.uint8)
  rgba[:, :, 0] = 200
  read = images.read_grey(png(Image.fromarray(rgba)))
  assert (read == round(0.299 * 200)).all()


def test_read_grey_looks_up_palettes():
  indices = np.array([[0, 1], [2, 1]], np.uint8)
  palette = Image.new("P", (2, 2))
  palette.putdata(indices.ravel().tolist())
  palette.putpalette([10, 10, 10, 90, 90, 90, 250, 250, 250])
  data = png(palette, transparency=bytes([0, 128, 255]))
  np.testing.assert_array_equal(images.read_grey(data), [[10, 90], [250, 90]])


def test_read_grey_scales_sixteen_bits_by_their_range():
  values = np.array([[0, 128, 129, 257], [32768, 65278, 65407, 65535]], np.uint16)
  read = images.read_grey(png(Image.fromarray(values)))
  np.testing.assert_array_equal(read, np.round(values / 257.0))


def test_read_grey_scales_by_the_bits_in_use_as_references_are(tmp_path):
  for bits in range(8, 17):
    top = 2**bits - 1
    values = np.linspace(0, top, 40 * 40).round().astype(np.uint16).reshape(40, 40)
    Image.fromarray(values).save(tmp_path / "x.png")
    read = images.read_grey(tmp_path / "x.png")
    np.testing.assert_array_equal(read, np.round(values * (255 / top)))
    np.testing.assert_array_equal(read, reference.read_reference(tmp_path / "x.png"))


@pytest.mark.parametrize(
  ("width", "height", "depth", "colour", "message"),
  [
    (8193, 4, 8, 0, "has 8193x4 pixels"),
    (60000, 60000, 8, 6, "has 60000x60000 pixels"),
    (64, 64, 16, 2, "16 bits and several channels"),
  ],
)
def test_read_grey_refuses_from_the_header(width, height, depth, colour, message):
  header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
  chunk = b"IHDR" + header
  data = (
    images.PNG + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
  )
  with pytest.raises(errors.InputError, match=message):
    images.read_grey(data + b"\0" * 99)


def jpeg(exif: Image.Exif | bytes) -> bytes:
  file = io.BytesIO()
  Image.fromarray(ramp(40, 50)).save(file, format="JPEG", quality=95, exif=exif)
  return file.getvalue()


@pytest.mark.parametrize("orientation", range(1, 10))
def test_read_grey_follows_the_orientation_tag(orientation):
  exif = Image.Exif()
  exif[0x0112] = orientation
  data = jpeg(exif)
  read = images.read_grey(data).astype(int)
  with Image.open(io.BytesIO(data)) as image:
    np.testing.assert_array_equal(read, ImageOps.exif_transpose(image))
  if orientation == 6:
    assert abs(read - np.rot90(ramp(40, 50), -1)).max() <= 6


def exif_tags(*tags: tuple[int, int, int, bytes]) -> bytes:
  """Tags of (number, type, count, 4 bytes of value), and a 1 / 1 behind them."""
  entries = b"".join(struct.pack(">HHI4s", *tag) for tag in tags)
  head = b"Exif\0\0MM\0*" + struct.pack(">IH", 8, len(tags))
  return head + entries + struct.pack(">III", 0, 1, 1)


@pytest.mark.parametrize(
  ("tag", "shape"),
  [
    # Description and date as fractions, resolution and orientation as text.
    ((0x10E, 5, 1, struct.pack(">I", 38)), (50, 40)),
    ((0x132, 5, 1, struct.pack(">I", 38)), (50, 40)),
    ((0x11A, 2, 3, b"72\0\0"), (50, 40)),
    ((0x112, 2, 2, b"6\0\0\0"), (40, 50)),
  ],
)
def test_read_grey_reads_images_with_odd_tags(tag, shape):
  turn = () if tag[0] == 0x112 else ((0x112, 3, 1, b"\0\6\0\0"),)
  assert images.read_grey(jpeg(exif_tags(tag, *turn))).shape == shape


def test_is_turned_is_no_image_whose_tags_cannot_be_read(monkeypatch):
  def fail():
    raise AttributeError("a damaged tag")

  image = Image.open(io.BytesIO(jpeg(exif_tags((0x112, 3, 1, b"\0\6\0\0")))))
  assert images.is_turned(image)
  monkeypatch.setattr(image, "getexif", fail)
  assert not images.is_turned(image)


def test_read_grey_reads_one_bit_as_black_and_white():
  image = Image.fromarray(ramp(4, 4) > 100)
  assert set(np.unique(images.read_grey(png(image)))) == {0, 255}


@pytest.mark.parametrize("kept", [0, 4, 60, 0.5, 0.98])
def test_read_grey_names_truncated_images(tmp_path, kept):
  noise = np.random.default_rng(0).integers(0, 255, (64, 64), "u1")
  data = png(Image.fromarray(noise))
  path = tmp_path / "00000001_000.png"
  path.write_bytes(data[: kept if isinstance(kept, int) else int(kept * len(data))])
  with pytest.raises(errors.InputError, match=r"cannot read the image .*00000001_000"):
    images.read_grey(path)


def test_read_grey_names_absent_images(tmp_path):
  with pytest.raises(errors.InputError, match=r"absent\.png"):
    images.read_grey(tmp_path / "absent.png")


def test_resize_crops_the_centred_square():
  wide = np.zeros((32, 64), np.uint8)
  wide[:, 16:48] = ramp(32, 32)
  np.testing.assert_array_equal(images.resize(wide, 32), ramp(32, 32))
  np.testing.assert_array_equal(images.resize(wide.T, 32), ramp(32, 32).T)


def test_resize_pads_with_black():
  wide = np.full((32, 64), 200, np.uint8)
  padded = images.resize(wide, 16, "pad")
  assert padded.shape == (16, 16)
  assert (padded[4:12] == 200).all()
  assert not padded[:4].any()
  assert not padded[12:].any()


@pytest.mark.parametrize("mode", images.MODES)
def test_resize_keeps_the_mean_and_aliases_nothing(mode):
  stripes = np.tile(np.array([0, 255], np.uint8), (64, 32))
  small = images.resize(stripes, 16, mode)
  # Without a filter, every second column would be all that is left: 0 or 255.
  assert abs(small[2:-2, 2:-2].astype(float) - 127.5).max() < 10
  smooth = ramp(64, 64)
  assert abs(images.resize(smooth, 16, mode).mean() - smooth.mean()) < 1
  np.testing.assert_array_equal(images.resize(smooth, 64, mode), smooth)


def test_resize_refuses_an_unknown_mode():
  with pytest.raises(errors.InputError, match=r"'stretch'; expected crop or pad"):
    images.resize(ramp(4, 4), 2, "stretch")


def test_resize_tree_makes_the_folder_once(make_tree):
  small = make_tree(size=24)
  messages = []
  (small.root / "12x12").mkdir()
  (small.root / "12x12" / "mine.txt").write_text("mine")
  folder = layout.resize_tree(
    small.root, 12, progress=lambda *args: messages.append(args)
  )
  assert folder.name == "12x12"
  assert (folder / "mine.txt").read_text() == "mine"
  (folder / "mine.txt").unlink()
  assert sorted(path.stem for path in folder.iterdir()) == sorted(small.ids)
  assert messages[-1] == ("resize to 12", len(small.ids), len(small.ids))
  original = images.read_grey(layout.find_tree(small.root).originals[small.ids[0]])
  result = images.read_grey(folder / f"{small.ids[0]}.png")
  np.testing.assert_array_equal(result, images.resize(original, 12))
  # A second run finds one image gone and makes that one alone.
  before = (folder / f"{small.ids[1]}.png").stat().st_mtime_ns
  (folder / f"{small.ids[0]}.png").unlink()
  messages.clear()
  layout.resize_tree(small.root, 12, progress=lambda *args: messages.append(args))
  assert messages == [("resize to 12", 1, 1)]
  assert (folder / f"{small.ids[1]}.png").stat().st_mtime_ns == before


def test_resize_tree_names_files_that_are_no_images(make_tree):
  small = make_tree(size=24)
  path = layout.find_tree(small.root).originals[small.ids[0]]
  epath.Path(path).write_bytes(b"no image")
  message = r"\.png: its format is unknown; .*; fix: copy it again, or move it out"
  with pytest.raises(errors.InputError, match=message):
    layout.resize_tree(small.root, 12, progress=lambda *args: None)


def test_resize_tree_without_large_enough_images(make_tree):
  root = make_tree(folder="24x24").root
  with pytest.raises(errors.InputError, match="no image of 48 pixels or more"):
    layout.resize_tree(root, 48, progress=lambda *args: None)


def test_in_threads_keeps_order_and_reports_errors():
  assert list(images.in_threads(lambda x: x * x, range(100))) == [
    x * x for x in range(100)
  ]

  def fail(x: int) -> int:
    if x == 7:
      raise ValueError("seven")
    return x

  results = images.in_threads(fail, range(10**6))
  with pytest.raises(ValueError, match="seven"):
    list(results)


def test_read_grey_reads_real_rgba_originals(nih_cxr_mini):
  tree = layout.find_tree(nih_cxr_mini)
  modes = []
  for stem, path in tree.originals.items():
    with Image.open(path) as image:
      modes.append(image.mode)
    grey = images.read_grey(path)
    assert grey.shape == (1024, 1024)
    # The 256x256 copies were made from the same originals, by a Lanczos too.
    copy = images.read_grey(tree.resolve(256)[stem]).astype(float)
    assert abs(images.resize(grey, 256).astype(float) - copy).mean() < 1
  assert modes.count("RGBA") == 4
  assert modes.count("L") == 10


def placed(box, size, mode):
  """A box in pixels of an image of (width, height), as fractions of the square."""
  fractions = np.array(box) / np.tile(size, 2)
  return images.resize_boxes(fractions[np.newaxis], size[::-1], mode)[0]


@pytest.mark.parametrize("mode", images.MODES)
@pytest.mark.parametrize("size", [1024, 256])
def test_resize_boxes_keeps_boxes_of_square_images(mode, size):
  fractions = np.float32([[0.3, 0.25, 0.25, 0.1]])
  box = images.resize_boxes(fractions, (size, size), mode)
  np.testing.assert_allclose(box, fractions, rtol=1e-6)


def test_resize_boxes_moves_boxes_with_crop_and_pad():
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
def test_resize_boxes_follows_resize(width, height, mode, corner):
  scale = 8
  image = np.zeros((height * scale, width * scale), np.uint8)
  x, y = int(corner[0] * width) * scale, int(corner[1] * height) * scale
  box = (x, y, 2 * scale, 2 * scale)
  image[y : y + 2 * scale, x : x + 2 * scale] = 255
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
