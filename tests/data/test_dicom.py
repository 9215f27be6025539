"""`data/dicom.py`: DICOM's equations in closed form; what cannot be shown is named."""

from collections.abc import Callable
import io
import sys

import numpy as np
from PIL import Image
import pydicom
import pydicom.encaps
import pydicom.uid
import pytest

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.data import dicom

# 12 bits in 16, both ends included.
VALUES = np.linspace(0, 4095, 40 * 48).round().astype(np.uint16).reshape(40, 48)


@pytest.fixture
def write(tmp_path) -> Callable[..., str]:
  """Writes a DICOM file: `write(values, bits=12, WindowCenter=...) -> path`."""

  def write(
    values: np.ndarray = VALUES,
    *,
    bits: int = 12,
    syntax: str = pydicom.uid.ExplicitVRLittleEndian,
    pixels: bytes | None = None,
    **elements,
  ) -> str:
    meta = pydicom.dataset.FileMetaDataset()
    meta.TransferSyntaxUID = syntax
    meta.MediaStorageSOPClassUID = pydicom.uid.DigitalXRayImageStorageForPresentation
    meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    dataset = pydicom.Dataset()
    dataset.file_meta = meta
    dataset.SOPClassUID = meta.MediaStorageSOPClassUID
    dataset.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    dataset.Rows, dataset.Columns = values.shape
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.PixelRepresentation = int(values.dtype.kind == "i")
    dataset.BitsAllocated = 8 * values.dtype.itemsize
    dataset.BitsStored, dataset.HighBit = bits, bits - 1
    data = values.tobytes() if pixels is None else pixels
    word = "OW" if values.dtype.itemsize == 2 else "OB"
    dataset.add_new("PixelData", word if pixels is None else "OB", data)
    for keyword, value in elements.items():
      if value is None:
        delattr(dataset, keyword)
      else:
        setattr(dataset, keyword, value)
    path = tmp_path / "chest.dcm"
    dataset.save_as(path, enforce_file_format=True)
    return str(path)

  return write


def read(path: str) -> np.ndarray:
  return dicom.to_grey(dicom.open_dicom(path), path)


def grey(shown: np.ndarray) -> np.ndarray:
  """[0, 1] -> uint8."""
  return np.round(np.clip(shown, 0, 1) * 255).astype(np.uint8)


def lut(values: list[int], first: int, bits: int) -> pydicom.Sequence:
  item = pydicom.Dataset()
  item.add_new("LUTDescriptor", "US", [len(values), first, bits])
  item.add_new("LUTData", "US", values)
  return pydicom.Sequence([item])


def test_open_dicom_uses_the_full_range_without_a_window(write):
  np.testing.assert_array_equal(read(write()), grey(VALUES / 4095))
  part = VALUES // 2 + 1000
  np.testing.assert_array_equal(read(write(part)), grey((part - 1000) / 2047))


def test_open_dicom_keeps_eight_bits(write):
  values = np.arange(256, dtype=np.uint8).reshape(16, 16)
  np.testing.assert_array_equal(read(write(values, bits=8)), values)


def test_open_dicom_inverts_monochrome1(write):
  shown = read(write(PhotometricInterpretation="MONOCHROME1"))
  np.testing.assert_array_equal(shown, grey(1 - VALUES / 4095))
  shown = read(
    write(PhotometricInterpretation="MONOCHROME1", WindowCenter=1000, WindowWidth=500)
  )
  plain = read(write(WindowCenter=1000, WindowWidth=500))
  assert abs(shown.astype(int) + plain - 255).max() <= 1


def test_open_dicom_applies_the_window_after_the_rescale(write):
  # Hounsfield-like: slope 2, intercept -1000; C.11.2.1.2.1.
  shown = read(
    write(RescaleSlope=2, RescaleIntercept=-1000, WindowCenter=1500, WindowWidth=3001)
  )
  rescaled = VALUES * 2.0 - 1000
  np.testing.assert_array_equal(shown, grey((rescaled - 1499.5) / 3000 + 0.5))
  # Without the window, slope and intercept fall out of the full range.
  shown = read(write(RescaleSlope=2, RescaleIntercept=-1000))
  np.testing.assert_array_equal(shown, grey(VALUES / 4095))


def test_open_dicom_takes_the_first_window(write):
  one = read(write(WindowCenter=2000, WindowWidth=1000))
  two = read(write(WindowCenter=[2000, 500], WindowWidth=[1000, 10]))
  np.testing.assert_array_equal(one, two)
  assert one.min() == 0
  assert one.max() == 255


@pytest.mark.parametrize(
  ("function", "expected"),
  [
    ("LINEAR_EXACT", lambda v: (v - 2000) / 1000 + 0.5),
    ("SIGMOID", lambda v: 1 / (1 + np.exp(-4 * (v - 2000) / 1000))),
  ],
)
def test_open_dicom_supports_other_window_functions(write, function, expected):
  shown = read(write(WindowCenter=2000, WindowWidth=1000, VOILUTFunction=function))
  np.testing.assert_array_equal(shown, grey(expected(VALUES.astype(float))))


def test_open_dicom_supports_narrow_windows(write):
  shown = read(write(WindowCenter=2000, WindowWidth=1))
  np.testing.assert_array_equal(shown, grey(VALUES > 1999.5))
  # The exponential of a narrow sigmoid would overflow.
  shown = read(write(WindowCenter=2000, WindowWidth=1, VOILUTFunction="SIGMOID"))
  assert set(np.unique(shown[abs(VALUES - 2000.0) > 5])) == {0, 255}
  with pytest.raises(errors.InputError, match="Window Width must be greater"):
    read(write(WindowCenter=2000, WindowWidth=0))


def test_open_dicom_prefers_the_voi_lut_to_the_window(write):
  table = [int(4095 * (i / 15) ** 2) for i in range(16)]
  values = np.tile(np.arange(16, dtype=np.uint16), (16, 1))
  expected = grey(np.array(table)[values] / 4095)
  shown = read(
    write(values, VOILUTSequence=lut(table, 0, 12), WindowCenter=3, WindowWidth=2)
  )
  np.testing.assert_array_equal(shown, expected)
  # First value mapped: 2, so all moves by two; with a rescale before it.
  shown = read(
    write(
      values,
      VOILUTSequence=lut(table, 2, 12),
      RescaleSlope=1,
      RescaleIntercept=2,
    )
  )
  np.testing.assert_array_equal(shown, expected)


def test_open_dicom_applies_the_modality_lut_first(write):
  table = [i * i for i in range(16)]
  values = np.tile(np.arange(16, dtype=np.uint16), (16, 1))
  modality = lut(table, 0, 16)
  modality[0].ModalityLUTType = "US"
  shown = read(
    write(values, ModalityLUTSequence=modality, WindowCenter=100, WindowWidth=101)
  )
  np.testing.assert_array_equal(shown, grey((values**2 - 99.5) / 100 + 0.5))


def test_open_dicom_reads_signed_values(write):
  values = (VALUES.astype(np.int16) - 2048).astype(np.int16)
  np.testing.assert_array_equal(read(write(values)), grey(VALUES / 4095))


def test_open_dicom_gives_zeros_for_equal_values(write):
  flat = np.full((40, 40), 700, np.uint16)
  for form in ("MONOCHROME1", "MONOCHROME2"):
    assert not read(write(flat, PhotometricInterpretation=form)).any()


def test_open_dicom_reads_voi_luts_of_eight_bits(write):
  shown = np.arange(4096) // 16
  expected = shown[VALUES]
  words = lut(shown.tolist(), 0, 8)
  np.testing.assert_array_equal(read(write(VOILUTSequence=words)), expected)
  # Two entries in a word, as a list of words and as bytes.
  packed = shown.astype(np.uint8).view("<u2")
  two = lut(packed.tolist(), 0, 8)
  two[0].LUTDescriptor = [4096, 0, 8]
  np.testing.assert_array_equal(read(write(VOILUTSequence=two)), expected)
  two[0].add_new("LUTData", "OW", packed.tobytes())
  np.testing.assert_array_equal(read(write(VOILUTSequence=two)), expected)


@pytest.mark.parametrize(("said", "used"), [(16, 12), (12, 8), (8, 12), (12, 12)])
def test_open_dicom_scales_luts_by_the_bits_that_they_use(write, said, used):
  table = np.arange(4096) * (2**used - 1) // 4095
  shown = read(write(VOILUTSequence=lut(table.tolist(), 0, said)))
  np.testing.assert_array_equal(shown, grey(table[VALUES] / (2**used - 1)))


def test_open_dicom_names_luts_that_end_too_early(write):
  short = lut(list(range(4000)), 0, 12)
  short[0].LUTDescriptor = [4096, 0, 12]
  with pytest.raises(errors.InputError, match="its LUT has 4000 of 4096 entries"):
    read(write(VOILUTSequence=short))
  # No value asks for the missing entries.
  shown = read(write(np.minimum(VALUES, 3999), VOILUTSequence=short))
  np.testing.assert_array_equal(shown, grey(np.minimum(VALUES, 3999) / 4095))


@pytest.mark.parametrize("bits", [7, 10, 13])
def test_open_dicom_reads_modality_luts_of_any_depth(write, bits):
  table = np.arange(4096) * (2**bits - 1) // 4095
  modality = lut(table.tolist(), 0, bits)
  modality[0].ModalityLUTType = "US"
  shown = read(write(ModalityLUTSequence=modality))
  np.testing.assert_array_equal(shown, grey(table[VALUES] / (2**bits - 1)))


def test_open_dicom_reads_luts_of_signed_values(write):
  values = (VALUES.astype(np.int16) - 2048).astype(np.int16)
  # -2048 as a file may state it.
  table = lut(list(range(4096)), 2**16 - 2048, 12)
  np.testing.assert_array_equal(
    read(write(values, VOILUTSequence=table)), grey(VALUES / 4095)
  )


PADDED = np.zeros(VALUES.shape, bool)
PADDED[:, :10] = PADDED[:, -10:] = True


@pytest.mark.parametrize(
  "window", [{}, {"WindowCenter": 1830, "WindowWidth": 3061}], ids=["range", "window"]
)
@pytest.mark.parametrize("case", ["black", "white", "signed", "range", "inverted"])
def test_open_dicom_leaves_padding_out(write, case, window):
  values = (VALUES // 2 + 300).astype(np.uint16)
  elements = dict(window)
  plain = read(write(values, **window))
  expected = np.where(PADDED, 0, plain)
  if not window:
    inside = values[~PADDED].astype(float)
    expected[~PADDED] = grey((inside - inside.min()) / (inside.max() - inside.min()))
  padding = {"black": 0, "white": 16383, "signed": -30000}.get(case, 4000)
  if case == "signed":
    values = values.astype(np.int16)
  values[PADDED] = padding
  elements["PixelPaddingValue"] = padding
  if case == "range":
    values[:, :5] = 4090
    elements["PixelPaddingRangeLimit"] = 4095
  shown = expected
  if case == "inverted":
    elements["PhotometricInterpretation"] = "MONOCHROME1"
    shown = np.where(PADDED, 0, 255 - expected.astype(int))
  result = read(write(values, bits=16, **elements)).astype(int)
  assert abs(result - shown).max() <= (case == "inverted")
  assert not result[PADDED].any()


def test_open_dicom_shows_nothing_of_padding_alone(write):
  path = write(np.full((40, 40), 700, np.uint16), PixelPaddingValue=700)
  assert not read(path).any()


def test_open_dicom_decodes_jpeg(write):
  picture = np.tile(np.arange(0, 240, 4, dtype=np.uint8), (48, 1))
  file = io.BytesIO()
  Image.fromarray(picture).save(file, format="JPEG", quality=95)
  path = write(
    picture,
    bits=8,
    syntax=pydicom.uid.JPEGBaseline8Bit,
    pixels=pydicom.encaps.encapsulate([file.getvalue()]),
  )
  shown = read(path).astype(float)
  assert abs(shown - picture / 236 * 255).max() < 4


def test_open_dicom_names_compression_without_a_plug_in(write):
  path = write(
    syntax=pydicom.uid.JPEGLossless, pixels=pydicom.encaps.encapsulate([b"\0" * 64])
  )
  with pytest.raises(errors.InputError, match=r"JPEG Lossless.*pylibjpeg.*fix: .*pip"):
    read(path)


@pytest.mark.parametrize(
  ("elements", "message"),
  [
    ({"PixelData": None}, "has no pixel data"),
    ({"Rows": None}, "has no pixel data"),
    ({"NumberOfFrames": 3}, "it has 3 frames"),
    ({"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"}, "not grey but RGB"),
    ({"PhotometricInterpretation": "PALETTE COLOR"}, "not grey but PALETTE COLOR"),
    ({"PhotometricInterpretation": None}, "not grey but None"),
    ({"BitsAllocated": None}, "Bits Allocated"),
    ({"Rows": 4000}, "bytes"),
    ({"VOILUTFunction": "CUBIC", "WindowCenter": 9, "WindowWidth": 9}, "'CUBIC'"),
  ],
)
def test_open_dicom_refuses_other_images(write, elements, message):
  with pytest.raises(errors.InputError, match=rf"chest\.dcm: .*{message}"):
    read(write(**elements))


# pydicom warns of some damage before it gives up.
@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
def test_open_dicom_names_damaged_files(write, tmp_path):
  whole = (tmp_path / write()).read_bytes()
  path = tmp_path / "damaged.dcm"
  rng = np.random.default_rng(0)
  messages = []
  for round_ in range(300):
    data = bytearray(whole[: rng.integers(len(whole))] if round_ % 2 else whole)
    # In what stands before the pixels.
    for place in rng.integers(min(len(data), 700) + 1, size=4):
      data[place : place + 1] = bytes([rng.integers(256)])
    path.write_bytes(bytes(data))
    try:
      shown = read(str(path))
    except errors.InputError as error:
      messages.append(str(error))
    else:
      assert shown.dtype == np.uint8
      assert shown.ndim == 2
  assert len(messages) > 100
  assert all("damaged.dcm" in message for message in messages)


def test_open_dicom_refuses_other_files(tmp_path):
  path = tmp_path / "notes.dcm"
  path.write_bytes(b"patient is well" * 50)
  with pytest.raises(errors.InputError, match=r"notes\.dcm: it has no DICOM header"):
    dicom.open_dicom(path)


def test_open_dicom_names_the_missing_package(monkeypatch, tmp_path):
  monkeypatch.setitem(sys.modules, "pydicom", None)
  with pytest.raises(errors.InputError, match="pip install pydicom"):
    dicom.open_dicom(tmp_path / "chest.dcm")
