"""`data/reference.py`: every grey form reads alike; all that is no X-ray is refused."""

import pathlib
import struct
import warnings
import zlib

import numpy as np
from PIL import Image
import pydicom
import pydicom.uid
import pytest

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.data import reference


def ramp(height: int = 40, width: int = 50) -> np.ndarray:
  x = np.linspace(0, 1, width)[np.newaxis] * np.linspace(0.2, 1, height)[:, np.newaxis]
  return (x * 255).astype(np.uint8)


def png_header(width: int, height: int, *, depth: int = 8, colour: int = 0) -> bytes:
  """A PNG that tells its size and holds next to nothing."""

  def chunk(name: bytes, data: bytes) -> bytes:
    check = struct.pack(">I", zlib.crc32(name + data))
    return struct.pack(">I", len(data)) + name + data + check

  header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
  return (
    b"\x89PNG\r\n\x1a\n"
    + chunk(b"IHDR", header)
    + chunk(b"IDAT", zlib.compress(b"\0" * 99))
    + chunk(b"IEND", b"")
  )


def write_dicom(path: pathlib.Path, values: np.ndarray) -> None:
  meta = pydicom.dataset.FileMetaDataset()
  meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
  meta.MediaStorageSOPClassUID = pydicom.uid.DigitalXRayImageStorageForPresentation
  meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
  dataset = pydicom.Dataset()
  dataset.file_meta = meta
  dataset.SOPClassUID = meta.MediaStorageSOPClassUID
  dataset.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
  dataset.Rows, dataset.Columns = values.shape
  dataset.SamplesPerPixel, dataset.PixelRepresentation = 1, 0
  dataset.PhotometricInterpretation = "MONOCHROME2"
  dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
  dataset.add_new("PixelData", "OW", values.astype(np.uint16).tobytes())
  dataset.save_as(path, enforce_file_format=True)


def test_read_reference_is_exact_for_grey_modes(tmp_path):
  grey = ramp()
  image = Image.fromarray(grey)
  alpha = Image.fromarray(np.random.default_rng(0).integers(0, 255, grey.shape, "u1"))
  forms = [
    image,
    image.convert("RGB"),
    Image.merge("RGBA", [image, image, image, alpha]),
    Image.merge("LA", [image, alpha]),
    image.convert("P"),
  ]
  for form in forms:
    form.save(tmp_path / "x.png")
    read = reference.read_reference(tmp_path / "x.png")
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, grey, err_msg=form.mode)


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_read_reference_reads_jpeg(tmp_path, mode):
  image = Image.fromarray(ramp())
  # By its content, whatever its name.
  path = tmp_path / "chest"
  image.convert("RGB").convert(mode).save(path, format="JPEG", quality=95)
  read = reference.read_reference(path).astype(int)
  assert abs(read - ramp()).max() <= 6


def test_read_reference_follows_the_orientation_tag(tmp_path):
  exif = Image.Exif()
  exif[0x0112] = 6
  image = Image.fromarray(ramp())
  image.save(tmp_path / "x.jpg", quality=95, exif=exif)
  read = reference.read_reference(tmp_path / "x.jpg").astype(int)
  assert read.shape == (50, 40)
  assert abs(read - np.rot90(ramp(), -1)).max() <= 6


def test_read_reference_reads_one_bit_as_black_and_white(tmp_path):
  Image.fromarray(ramp() > 100).save(tmp_path / "x.png")
  read = reference.read_reference(tmp_path / "x.png")
  np.testing.assert_array_equal(read, (ramp() > 100) * 255)


@pytest.mark.parametrize("bits", range(8, 17))
def test_read_reference_scales_by_the_bits_in_use(tmp_path, bits):
  top = 2**bits - 1
  values = np.linspace(0, top, 40 * 40).round().astype(np.uint16).reshape(40, 40)
  Image.fromarray(values).save(tmp_path / "x.png")
  read = reference.read_reference(tmp_path / "x.png")
  np.testing.assert_array_equal(read, np.round(values * (255 / top)))
  assert (read.min(), read.max()) == (0, 255)
  # A maximum just above the half uses as many bits; the half of it one less.
  Image.fromarray(values // 2 + (top + 1) // 2).save(tmp_path / "x.png")
  read = reference.read_reference(tmp_path / "x.png")
  assert read.min() == 128
  assert read.max() == 255


def test_read_reference_keeps_eight_bits_in_sixteen(tmp_path):
  Image.fromarray(ramp().astype(np.uint16)).save(tmp_path / "x.png")
  read = reference.read_reference(tmp_path / "x.png")
  np.testing.assert_array_equal(read, ramp())


@pytest.mark.parametrize("name", ["chest.dcm", "chest.DICOM", "chest", "chest.png"])
def test_read_reference_recognises_dicom_by_content(tmp_path, name):
  values = np.linspace(0, 4095, 40 * 48).round().astype(np.uint16).reshape(40, 48)
  write_dicom(tmp_path / name, values)
  read = reference.read_reference(str(tmp_path / name))
  np.testing.assert_array_equal(read, np.round(values / 4095 * 255))


def test_read_reference_recognises_dicom_by_suffix(tmp_path):
  path = tmp_path / "chest.dcm"
  path.write_bytes(b"nothing of the kind" * 20)
  with pytest.raises(errors.InputError, match="no DICOM header"):
    reference.read_reference(path)


def test_read_reference_refuses_colour_except_a_small_mark(tmp_path):
  path = tmp_path / "x.png"
  rgb = np.stack([ramp(100, 100)] * 3, axis=-1)
  rgb[:9, :11] = (255, 200, 0)
  Image.fromarray(rgb).save(path)
  assert reference.read_reference(path).shape == (100, 100)
  rgb[:9, :12] = (255, 200, 0)
  Image.fromarray(rgb).save(path)
  with pytest.raises(errors.InputError, match=r"in colour \(1% of its pixels\)"):
    reference.read_reference(path)
  # A slight tint of the whole, as of a film that was scanned.
  tint = np.stack([ramp(), ramp(), ramp() - ramp() // 16], axis=-1)
  Image.fromarray(tint).save(path)
  assert reference.read_reference(path).shape == (40, 50)
  noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), "u1")
  for mode, ending in [("RGB", "png"), ("RGBA", "png"), ("P", "png"), ("RGB", "jpg")]:
    picture = tmp_path / f"photo.{ending}"
    Image.fromarray(noise).convert(mode).save(picture)
    with pytest.raises(errors.InputError, match=r"photo\.\w+ is in colour"):
      reference.read_reference(picture)


@pytest.mark.parametrize(
  ("width", "height", "reported"),
  [
    (20, 20, "has 20x20 pixels"),
    (31, 500, "has 31x500 pixels"),
    (500, 31, "has 500x31 pixels"),
    (8193, 40, "has 8193x40 pixels"),
    (40, 8193, "has 40x8193 pixels"),
    (10000, 10000, "has 10000x10000 pixels"),
    (30000, 30000, "has 30000x30000 pixels"),
  ],
)
def test_read_reference_refuses_sizes_from_the_header(
  tmp_path, width, height, reported
):
  path = tmp_path / "x.png"
  path.write_bytes(png_header(width, height))
  # Whatever filter the user has set, PIL's own warning is not what he shall read.
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    with pytest.raises(errors.InputError, match=f"{reported}; expected sides of 32 to"):
      reference.read_reference(path)


@pytest.mark.parametrize("side", [20, 31, 9000])
def test_read_reference_refuses_dicom_sizes_before_decoding(tmp_path, side):
  path = tmp_path / "x.dcm"
  write_dicom(path, np.zeros((4, 4)))
  dataset = pydicom.dcmread(path)
  dataset.Rows = dataset.Columns = side
  dataset.save_as(path)
  with pytest.raises(errors.InputError, match=f"{side}x{side} pixels; expected sides"):
    reference.read_reference(path)


@pytest.mark.parametrize("side", [32, 8192])
def test_read_reference_accepts_the_size_limits(tmp_path, side):
  values = np.zeros((32, side), np.uint8)
  values[0, 0] = 9
  Image.fromarray(values).save(tmp_path / "x.png")
  assert reference.read_reference(tmp_path / "x.png").shape == (32, side)


def test_read_reference_refuses_other_files(tmp_path):
  def refusal(path: pathlib.Path) -> str:
    with pytest.raises(errors.InputError) as raised:
      reference.read_reference(path)
    assert str(path) in str(raised.value)
    return str(raised.value)

  assert "No such file" in refusal(tmp_path / "absent.png")
  assert "is a folder" in refusal(tmp_path)
  path = tmp_path / "x.png"
  for data in [b"", b"a", b"hello" * 99, b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"]:
    path.write_bytes(data)
    assert "expected a whole PNG, JPEG or DICOM file" in refusal(path)
  Image.fromarray(ramp()).save(tmp_path / "x.bmp")
  assert "expected a whole PNG, JPEG or DICOM" in refusal(tmp_path / "x.bmp")
  noise = np.random.default_rng(0).integers(0, 255, (64, 64), "u1")
  for name in ("whole.png", "whole.jpg"):
    Image.fromarray(noise).save(tmp_path / name)
    whole = (tmp_path / name).read_bytes()
    for kept in (0.1, 0.5, 0.9):
      (tmp_path / name).write_bytes(whole[: int(kept * len(whole))])
      assert "cannot read the reference" in refusal(tmp_path / name)


@pytest.mark.parametrize("colour", [2, 4, 6])
def test_read_reference_refuses_sixteen_bit_colour(tmp_path, colour):
  path = tmp_path / "x.png"
  path.write_bytes(png_header(64, 64, depth=16, colour=colour))
  with pytest.raises(errors.InputError, match="16 bits and several channels"):
    reference.read_reference(path)


@pytest.mark.parametrize("value", [0, 77, 255])
def test_read_reference_refuses_a_constant_image(tmp_path, value):
  path = tmp_path / "x.png"
  Image.new("L", (64, 64), value).save(path)
  with pytest.raises(errors.InputError, match=f"shows nothing: all .* are {value}"):
    reference.read_reference(path)


def test_read_reference_refuses_a_constant_dicom(tmp_path):
  write_dicom(tmp_path / "x.dcm", np.full((64, 64), 700))
  with pytest.raises(errors.InputError, match="shows nothing"):
    reference.read_reference(tmp_path / "x.dcm")
