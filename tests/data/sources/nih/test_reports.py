"""Reports: every form of the CSV reads alike; what is missing is named."""

import pytest

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.data.sources.nih import metadata, source

ENTRY = (
  "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Sex,"
  "View Position,OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],Report\n"
  "00000001_000.png,Edema|Effusion,0,1,058,M,PA,2682,2749,0.143,0.171,"
  '"Edema,  with\r\n a small effusion."\n'
  "00000002_003.png,No Finding,3,2,41,F,AP,2682,2749,0.143,0.171,Clear lungs.\n"
)
QUOTED = ENTRY.replace(
  "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]",
  '"OriginalImage[Width,Height]","OriginalImagePixelSpacing[x,y]"',
)
SMALL = (
  "REPORT , image index,note\n"
  '"Edema, with a small effusion.",00000001_000,x\n'
  "\n"
  "Clear lungs.,00000002_003.png,y\n"
)


def write(tmp_path, text: str):
  path = tmp_path / "reports.csv"
  path.write_text(text, newline="")
  return path


@pytest.mark.parametrize(
  "text",
  [ENTRY, QUOTED, SMALL, "\ufeff" + SMALL],
  ids=["data entry", "quoted header", "two columns", "byte-order mark"],
)
def test_read_reports_reads_all_forms_alike(tmp_path, text):
  assert source.read_reports(write(tmp_path, text)) == {
    "00000001_000": "Edema, with a small effusion.",
    "00000002_003": "Clear lungs.",
  }


def test_read_reports_leaves_data_entries_readable(tmp_path):
  path = write(tmp_path, ENTRY)
  assert metadata.read_entries(path).id.tolist() == list(source.read_reports(path))


@pytest.mark.parametrize(
  ("text", "message"),
  [
    (
      "Image Index,text\na.png,b\n",
      "lacks the column 'report'.*it has Image Index, text",
    ),
    ("name,report\na.png,b\n", "lacks the column 'Image Index'"),
    ("a,b\n", "lacks the column 'Image Index' and 'report'"),
    ("", "lacks the column"),
    ("Image Index,report\n", "has no rows"),
    ("Image Index,x,report\na.png,b\n", "line 2 has 2 cells"),
    ("Image Index,report\na.png,b\nc.png\n", "line 3 has 1 cells"),
    ("Image Index,report\na.png,b\nc.png,Edema, small\n", "line 3 has 3 cells"),
    ("Image Index,report\nc.png,Edema, small\n", "line 2 has 3 cells; expected 2"),
    ("Image Index,report\na.png,b\na.jpg,b\n", "names 1 images twice, first a;"),
    ("Image Index,report\na," + "x" * 200_000 + "\n", "field larger than"),
  ],
)
def test_read_reports_names_unusable_rows(tmp_path, text, message):
  with pytest.raises(errors.InputError, match=message):
    source.read_reports(write(tmp_path, text))


def test_read_reports_skips_images_without_a_report(tmp_path):
  path = write(tmp_path, "Image Index,report\na,\nb,ok\nc,  \n")
  assert source.read_reports(path) == {"b": "ok"}


def test_read_reports_ignores_trailing_blank_cells(tmp_path):
  path = write(tmp_path, "Image Index,report\na.png,Edema.,,\nb.png,Mass.\n")
  assert source.read_reports(path) == {"a": "Edema.", "b": "Mass."}


def test_read_reports_refuses_other_files(tmp_path):
  with pytest.raises(errors.InputError, match=r"absent\.csv"):
    source.read_reports(tmp_path / "absent.csv")
  with pytest.raises(errors.InputError, match="cannot read "):
    source.read_reports(tmp_path)
  latin = tmp_path / "latin.csv"
  latin.write_bytes("Image Index,report\na.png,\xd6dem\n".encode("latin-1"))
  with pytest.raises(errors.InputError, match="UTF-8"):
    source.read_reports(latin)
