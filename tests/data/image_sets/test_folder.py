"""`data/image_sets/folder.py`: any grey file reads, and what cannot is reported."""

import pathlib

import numpy as np
from PIL import Image
import pydicom
import pydicom.uid
import pytest

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.data import images as images_lib
from cxr_diffusion_jax.data import labels as labels_lib
from cxr_diffusion_jax.data.image_sets import folder as image_folder
from cxr_diffusion_jax.data.sources.nih import metadata

GREY = np.linspace(0, 255, 12 * 16).astype(np.uint8).reshape(12, 16)


@pytest.fixture
def folder(tmp_path) -> pathlib.Path:
  """b.png, a.png and sub/c.png, of 16x12."""
  root = tmp_path / "folder"
  (root / "sub").mkdir(parents=True)
  for place, name in enumerate(("b.png", "a.png", "sub/c.png")):
    Image.fromarray(GREY + np.uint8(place)).save(root / name)
  return root


@pytest.fixture
def table(tmp_path):
  """Writes a table: `table("file,findings", "a.png,Mass")`."""

  def write(*lines: str) -> pathlib.Path:
    path = tmp_path / "labels.csv"
    path.write_text("\n".join(lines) + "\n")
    return path

  return write


def refused(*words: str):
  """Expects a refusal in one line with all these words."""
  pattern = "".join(f"(?=.*{word})" for word in words)
  return pytest.raises(errors.InputError, match=f"^{pattern}[^\n]*$")


def test_images_are_ordered_by_name_and_read_lazily(folder):
  images = image_folder.read(folder)
  assert images.ids.tolist() == ["a", "b", "c"]
  assert images.name == str(folder)
  assert images.images[1].shape == (12, 16, 1)
  np.testing.assert_array_equal(images.images[1][..., 0], GREY)
  Image.fromarray(255 - GREY).save(folder / "b.png")
  np.testing.assert_array_equal(images.images[1][..., 0], 255 - GREY)
  assert images.take([2]).ids.tolist() == ["c"]


def test_read_gives_one_image_for_all_grey_modes(tmp_path):
  image = Image.fromarray(GREY)
  image.convert("RGB").save(tmp_path / "rgb.png")
  image.convert("RGBA").save(tmp_path / "rgba.png")
  image.convert("LA").save(tmp_path / "la.png")
  palette = Image.fromarray(GREY).convert("P")
  palette.save(tmp_path / "palette.png")
  Image.fromarray(GREY.astype(np.uint16) * 257).save(tmp_path / "deep.png")
  images = image_folder.read(tmp_path)
  assert len(images) == 5
  for image in images.images:
    np.testing.assert_array_equal(image[..., 0], GREY)


def test_read_shows_dicom_as_displayed(folder):
  meta = pydicom.dataset.FileMetaDataset()
  meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
  meta.MediaStorageSOPClassUID = pydicom.uid.DigitalXRayImageStorageForPresentation
  meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
  dataset = pydicom.Dataset()
  dataset.file_meta, dataset.PhotometricInterpretation = meta, "MONOCHROME1"
  dataset.SamplesPerPixel, dataset.PixelRepresentation = 1, 0
  dataset.Rows, dataset.Columns = GREY.shape
  dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
  dataset.add_new("PixelData", "OW", (GREY.astype(np.uint16) * 16).tobytes())
  dataset.save_as(folder / "1.2.3.dcm", enforce_file_format=True)
  images = image_folder.read(folder)
  assert images.ids.tolist() == ["1.2.3", "a", "b", "c"]
  np.testing.assert_array_equal(images.images[0][..., 0], 255 - GREY)


def test_read_resizes_as_in_training(folder):
  Image.fromarray(np.zeros((40, 40), np.uint8)).save(folder / "large.png")
  images = image_folder.read(folder, image_size=8)
  assert [image.shape for image in images.images] == [(8, 8, 1)] * 4
  wanted = images_lib.resize(GREY + np.uint8(1), 8)
  np.testing.assert_array_equal(images.images[0][..., 0], wanted)


def test_images_of_several_sizes_are_refused(folder):
  Image.fromarray(np.zeros((7, 9), np.uint8)).save(folder / "odd.png")
  with refused("1 of 4", "not 16x12", "odd.png is 9x7", "--image_size 12 resizes"):
    image_folder.read(folder)


def test_read_pair_refuses_folders_of_two_sizes(folder, tmp_path):
  other = tmp_path / "other"
  other.mkdir()
  Image.fromarray(np.zeros((64, 64), np.uint8)).save(other / "x.png")
  with refused("16x12", "64x64", "--image_size 12 resizes"):
    image_folder.read_pair(folder, other)
  real, synthetic = image_folder.read_pair(folder, other, image_size=10)
  assert real.images[0].shape == synthetic.images[0].shape == (10, 10, 1)


def test_read_rejects_other_folders(folder, tmp_path):
  with refused("no such folder"):
    image_folder.read(tmp_path / "none")
  with refused("not a folder"):
    image_folder.read(folder / "a.png")
  (tmp_path / "empty").mkdir()
  (tmp_path / "empty" / "a.txt").write_text("a")
  with refused("no image in", "png"):
    image_folder.read(tmp_path / "empty")


def test_read_names_damaged_files_at_once(folder):
  whole = (folder / "a.png").read_bytes()
  (folder / "torn.png").write_bytes(whole[: len(whole) * 2 // 3])
  with refused("cannot read the image", "torn.png", "copy it again"):
    image_folder.read(folder)
  (folder / "torn.png").write_bytes(b"no image")
  with refused("cannot read the image", "torn.png"):
    image_folder.read(folder)
  # What some tools write behind an image's end is no damage.
  (folder / "torn.png").write_bytes(whole + b"\0" * 100)
  assert len(image_folder.read(folder)) == 4


def test_modes_of_no_radiograph_are_refused(folder):
  Image.new("CMYK", (16, 12)).save(folder / "ink.jpg")
  with refused("ink.jpg of 16x12", "CMYK", "save it as 8-bit grey"):
    image_folder.read(folder)


def test_read_scales_twelve_bits_in_sixteen(folder):
  Image.fromarray(GREY.astype(np.uint16) * 16).save(folder / "deep.png")
  images = image_folder.read(folder)
  deep = images.images[images.ids.tolist().index("deep")][..., 0].astype(int)
  assert abs(deep - GREY).max() <= 1


def test_read_follows_the_orientation_tag(folder):
  exif = Image.Exif()
  exif[0x0112] = 6
  Image.fromarray(GREY.T.copy()).save(folder / "turned.jpg", quality=95, exif=exif)
  images = image_folder.read(folder)
  assert images.images[images.ids.tolist().index("turned")].shape == (*GREY.shape, 1)


def test_read_rejects_duplicate_names(folder):
  Image.fromarray(GREY).save(folder / "sub" / "a.jpg")
  with refused("1 names", "a.png", "a.jpg"):
    image_folder.read(folder)


def test_labels_are_joined_by_name(folder, table):
  path = table(
    "File,findings,age,Sex,view,patient,condition",
    'sub/c.png,"Effusion, mass",63,M,PA,p1,r3.png',
    "a,No Finding,,F,lateral,p2,r1.png",
    "b.png,pleural thickening|Edema,058Y,,AP,p1,r2.png",
  )
  known = image_folder.read(folder, path).labels
  names = [labels_lib.names_of(row, metadata.FINDINGS) for row in known["findings"]]
  assert names == [(), ("Edema", "Pleural_Thickening"), ("Effusion", "Mass")]
  np.testing.assert_array_equal(known["age"], [np.nan, 58, 63])
  assert known["sex"].tolist() == [0, -1, 1]
  assert known["view"].tolist() == [-1, 1, 0]
  assert known["patient"].tolist() == ["p2", "p1", "p1"]
  assert known["condition"].tolist() == ["r1", "r2", "r3"]


def test_read_pair_accepts_a_table_for_one_or_both(folder, table, tmp_path):
  other = tmp_path / "other"
  other.mkdir()
  Image.fromarray(GREY).save(other / "x.png")
  both = ["file,findings", *(f"{name},Mass" for name in "abcx")]
  real, synthetic = image_folder.read_pair(folder, other, table(*both))
  assert real.labels["findings"].shape == (3, 14)
  assert synthetic.labels["findings"].shape == (1, 14)
  real, synthetic = image_folder.read_pair(folder, other, table(both[0], both[-1]))
  assert not real.labels
  assert len(synthetic.labels["findings"]) == 1
  with refused("1 of 5 rows", "match no file of", "such as y"):
    image_folder.read_pair(folder, other, table(*both, "y,Mass"))


def test_read_uses_matching_rows_of_nihs_table(folder, table):
  header = "Image Index,Finding Labels,Follow-up #,OriginalImage[Width,Height]"
  rows = [f"{name}.png,Mass,0,16,12" for name in ("a", "b", "c", "d")]
  images = image_folder.read(folder, table(header, *rows))
  assert images.labels["findings"].sum() == 3
  with refused("1 of 1 rows", "match no file", "such as d", "files there, such as a"):
    image_folder.read(folder, table(header, rows[-1]))


@pytest.mark.parametrize(
  ("lines", "words"),
  [
    (["file,findings", "a,Mass"], ["2 of 3 images", "no row", "such as b, c"]),
    (["file,findings"], ["has no rows"]),
    (["name,findings", "a,Mass"], ["lacks the column 'file'", "name, findings"]),
    (["file,finding", "a,Mass"], ["lacks the column 'findings'"]),
    (["file,findings", "a,Mass", "a.png,Mass"], ["names 1 images twice", "first a"]),
    (
      ["file,findings", "a,Mass", "b,Oedema", "c,Oedema"],
      ["line 3", "'Oedema'", "2 of 3 rows", "did you mean Edema"],
    ),
    (["file,findings", "a,"], ["1 of 1 rows", "No Finding"]),
    (["file,findings,age", "a,Mass,old"], ["'age'", "'old'", "years"]),
    (["file,findings", "a,Mass,Edema"], ["line 2 has 3 cells", r"separate .* by \|"]),
  ],
)
def test_read_refuses_tables_that_do_not_fit(lines, words, folder, table):
  with refused("labels.csv", *words):
    image_folder.read(folder, table(*lines))


def test_read_rejects_a_missing_table(folder, tmp_path):
  with refused("cannot read", "none.csv"):
    image_folder.read(folder, tmp_path / "none.csv")
