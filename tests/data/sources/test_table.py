"""The source `table`: any CSV or parquet file beside any folder of images."""

import numpy as np
from PIL import Image
import pyarrow
from pyarrow import parquet
import pytest

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.data import dataset_table, labels
from cxr_diffusion_jax.data.records import records
from cxr_diffusion_jax.data.settings import DataSettings
from cxr_diffusion_jax.data.sources import base, labelled, table

ROWS = [
  ["image", "patient", "findings", "age", "sex", "view", "report", "split", "boxes"],
  ["a.png", "p1", "Edema|Lung mass", "50", "F", "PA", "Edema.", "train", ""],
  ["b.jpg", "p2", "No Finding", "061Y", "male", "AP", "", "val", ""],
  ["deep/c", "p1", "", "", "", "L", "FINDINGS: Clear.", "train", ""],
  ["d.png", "p3", "Lung mass", "9", "M", "?", "x", "test", "Lung mass 0.1 0.2 0.3 0.4"],
  ["gone.png", "p4", "Edema", "9", "M", "", "", "test", ""],
]


def write(root, rows=ROWS, name="labels.csv"):
  (root / "deep").mkdir(parents=True, exist_ok=True)
  for image in ("a.png", "b.jpg", "deep/c.png", "d.png"):
    Image.new("L", (16, 16), 90).save(root / image)
  if name.endswith(".parquet"):
    columns = dict(zip(rows[0], zip(*rows[1:], strict=True), strict=True))
    parquet.write_table(pyarrow.table(columns), root / name)
  else:
    (root / name).write_text("\n".join(",".join(row) for row in rows) + "\n")
  return root


def read(root, **options) -> base.Table:
  settings = DataSettings(root=str(root), source="table", image_size=16, **options)
  return dataset_table.read_table(settings)


@pytest.mark.parametrize("name", ["labels.csv", "any.parquet"])
def test_read_table_reads_every_column(tmp_path, name):
  got = table.read_table(write(tmp_path, name=name), image_size=16)
  assert got.vocabulary == ("Edema", "Lung mass")
  assert got.id.tolist() == ["a", "b", "c", "d", "gone"]
  nan = np.nan
  np.testing.assert_array_equal(
    got.findings, [[1, 1], [0, 0], [nan, nan], [0, 1], [1, 0]]
  )
  np.testing.assert_array_equal(got.age, np.float32([50, 61, nan, 9, 9]))
  assert got.sex.tolist() == [0, 1, -1, 1, 1]
  assert got.view.tolist() == [0, 1, base.LATERAL, -1, -1]
  assert got.official.tolist() == ["train", "validation", "train", "test", "test"]
  assert [path and path[-5:] for path in got.image][2:] == ["c.png", "d.png"[-5:], None]
  assert got.patient[0] == got.patient[2]
  assert len(set(got.patient.tolist())) == 4
  assert got.report == {"a": "Edema.", "c": "Clear.", "d": "x"}
  np.testing.assert_allclose(got.boxes["d"][1], [0.1, 0.2, 0.3, 0.4])
  assert list(got.boxes) == ["d"]
  assert np.isnan(got.boxes["d"][0]).all()


def test_read_table_takes_columns_of_other_names(tmp_path):
  rows = [
    ["Path", "Subject", "Edema", "Mass", "visit"],
    ["a.png", "1", "1.0", "-1", "7"],
    ["b.jpg", "2", "0", "0", "1"],
  ]
  root = write(tmp_path, rows)
  got = read(root, columns="image=path,patient=Subject,findings=Edema|Mass")
  assert got.vocabulary == ("Edema", "Mass")
  np.testing.assert_array_equal(got.findings, [[1, np.nan], [0, 0]])
  assert got.patient.tolist() == [1, 2]
  same = read(root, columns="image=Path,patient=Subject,findings=*")
  assert got.notes == ("columns not read: visit (see config.data.columns)",)
  # A column without a label that is present is not taken for a finding.
  assert same.vocabulary == ("Edema",)
  for columns, message in {
    "patient=Subject": r"lacks the column 'image'.*columns='image=Path'",
    "image=Path": r"no column 'findings'.*--config.data.columns='findings=Edema'",
    "image=Path,findings=Edmea": r"'edmea'.*did you mean edema",
    "image=Path,findings=Edema,age=Years": "no column 'Years'",
    "picture=Path": r"'picture'; expected one of",
    "image": "NAME=OTHER",
  }.items():
    with pytest.raises(errors.InputError, match=message):
      read(root, columns=columns)


def test_read_table_chooses_views_and_findings(tmp_path):
  root = write(tmp_path)
  assert read(root).id.tolist() == ["a", "b", "d", "gone"]
  everything = read(root, views="PA,AP,unknown,lateral")
  assert everything.view.tolist() == [0, 1, -1, -1, -1]
  got = read(root, views="AP", rename="lung_mass=Mass", vocabulary="mass")
  assert (got.vocabulary, got.findings.tolist()) == (("mass",), [[0.0]])
  assert read(root, rename="Edema=Any,Lung mass=Any").findings.tolist() == [
    *([1.0], [0.0], [1.0], [1.0]),
  ]
  for options, message in {
    "rename": "'Edme'.*did you mean Edema",
    "vocabulary": "unknown finding 'Edme'",
    "views": "did you mean PA",
  }.items():
    value = {"rename": "Edme=x", "vocabulary": "Edme", "views": "P"}[options]
    with pytest.raises(errors.InputError, match=message):
      read(root, **{options: value})


@pytest.mark.parametrize(
  ("row", "message"),
  [
    (["b.png", "2", "Edema", "x"], "line 3: 'age' is 'x'"),
    (
      ["c.png", "2", "Edema|No Finding", ""],
      r"line 3: .* 'Edema\|No Finding'",
    ),
    (["b.png", "2", "Edema; no_finding", ""], "expected No Finding alone"),
    (
      ["b.png", "2", "Normal", ""],
      "line 3: .*expected names of findings, No Find",
    ),
    (["b.png", "2", "0", ""], "'findings' is '0'"),
    (["", "2", "Edema", ""], "line 3: 'image' is ''"),
    (["x/a.bmp", "2", "Edema", ""], None),
    (["./a.jpg", "2", "Edema", ""], "names 1 images twice, first a"),
  ],
)
def test_read_table_names_what_is_wrong(tmp_path, row, message):
  rows = [["image", "patient", "findings", "age"], ["a.png", "1", "Edema", "3"], row]
  root = write(tmp_path, rows)
  if message is None:
    assert read(root).id.tolist() == ["a", "x-a"]
    return
  with pytest.raises(errors.InputError, match=message):
    read(root)


def test_read_table_refuses_codes_that_it_does_not_know(tmp_path):
  rows = [
    ["image", "sex", "Findings"],
    ["a.png", "1", "Edema;Mass"],
    ["b.jpg", "0", ""],
  ]
  with pytest.raises(errors.InputError, match=r"2 cells of 'sex' .*first 1"):
    read(write(tmp_path, rows))
  # `M` beside `H` may be a woman.
  rows[1][1], rows[2][1] = "M", "H"
  with pytest.raises(errors.InputError, match=r"1 cells of 'sex' .*first H"):
    read(write(tmp_path / "spanish", rows))
  rows[1][1], rows[2][1] = "Female", "X"
  got = read(write(tmp_path / "other", rows, "labels.tsv"))
  assert got.vocabulary == ("Edema", "Mass")
  assert got.sex.tolist() == [0, -1]
  (note,) = got.notes
  assert "each image counts as one" in note


def test_read_table_takes_lists_with_unknown_findings(tmp_path):
  cells = ["Edema|Infiltrate=?", "no_finding", "=?|infiltrate", "nan"]
  rows = [["image", "findings"]]
  rows += [[f"{name}.png", cell] for name, cell in zip("abcd", cells, strict=True)]
  got = read(write(tmp_path, rows))
  assert got.vocabulary == ("Edema", "Infiltrate")
  nan = np.nan
  expected = [[1, nan], [0, 0], [nan, 1], [nan, nan]]
  np.testing.assert_array_equal(got.findings, expected)


def test_read_table_refuses_two_columns_of_one_finding(tmp_path):
  rows = [["image", "Edema", "edema"], ["a.png", "1", "0"], ["b.jpg", "0", "1"]]
  root = write(tmp_path, rows)
  for columns in ("findings=Edema", "findings=*"):
    with pytest.raises(errors.InputError, match=r"two columns named 'Edema'"):
      read(root, columns=columns)


def test_read_table_takes_one_column_of_labels(tmp_path):
  rows = [["image", "Edema"], ["a.png", "TRUE"], ["b.jpg", "0"], ["d.png", ""]]
  root = write(tmp_path, rows)
  for columns in ("findings=Edema", "findings=*"):
    got = read(root, columns=columns)
    assert got.vocabulary == ("Edema",)
    np.testing.assert_array_equal(got.findings, [[1], [0], [np.nan]])


def test_read_table_takes_no_finding_among_columns_as_no_finding_of_its_own(tmp_path):
  rows = [
    ["image", "No Finding", "Edema", "Mass", "Support Devices"],
    *(
      ["a.png", "1", "", "0", ""],
      ["b.jpg", "", "", "1", "1"],
      ["d.png", "1", "1", "", ""],
    ),
  ]
  named = "findings=No Finding|Edema|Mass|Support Devices"
  with pytest.raises(errors.InputError, match="line 4: Edema and No Finding"):
    read(write(tmp_path, rows), columns=named)
  rows[3][1] = "0"
  rows.append(["deep/c", "1", "", "-1", ""])
  for columns in (named, "findings=*"):
    got = read(write(tmp_path, rows), columns=columns)
    assert got.vocabulary == ("Edema", "Mass", "Support Devices")
    nan = np.nan
    # Uncertain is not blank.
    expected = [[0, 0, nan], [nan, 1, 1], [1, nan, nan], [0, nan, nan]]
    np.testing.assert_array_equal(got.findings, expected)
    is_none = labels.is_none(got.findings, got.vocabulary)
    assert is_none.tolist() == [True, False, False, False]


def test_read_table_joins_columns_of_one_finding_in_two_spellings(tmp_path):
  rows = [
    ["image", "lung_mass", "Edema", "Lung Mass", "No Finding"],
    *(["a.png", "", "1", "1", ""], ["b.jpg", "0", "0", "", ""]),
    *(["d.png", "1", "0", "0", ""], ["p1/c.png", "", "", "-1", "1"]),
  ]
  got = read(write(tmp_path, rows), columns="findings=*")
  assert got.vocabulary == ("lung_mass", "Edema")
  expected = [[1, 1], [np.nan, 0], [1, 0], [np.nan, 0]]
  np.testing.assert_array_equal(got.findings, expected)
  assert not [note for note in got.notes if "not read" in note]


def test_read_table_gives_no_row_the_image_of_another(tmp_path):
  write(tmp_path, [["image", "findings"], ["p1/c.png", "Edema"], ["deep/c", "Mass"]])
  got = read(tmp_path)
  assert (got.id.tolist(), got.image[0]) == (["p1-c", "deep-c"], None)
  assert str(got.image[1]).endswith("deep/c.png")


def test_read_table_joins_identifiers_and_paths_of_elsewhere(tmp_path):
  for name in ("1.2.840.1", "1.2.840.2"):
    (tmp_path / "x").mkdir(exist_ok=True)
    Image.new("L", (16, 16)).save(tmp_path / "x" / f"{name}.png")
  names = ["1.2.840.1", "1.2.840.2", "C:\\scans\\a.png", "/old/place/b.jpg"]
  got = read(write(tmp_path, [["image", "findings"], *([name, ""] for name in names)]))
  assert got.id.tolist() == ["1.2.840.1", "1.2.840.2", "a", "b"]
  assert all(got.image)
  cells = ["a/1.2.3", "a/1.2.4", "/b/1.2.3"]
  assert labelled.image_ids(cells).tolist() == ["a-1.2.3", "a-1.2.4", "b-1.2.3"]


@pytest.mark.parametrize(
  ("text", "view"),
  [
    *(("PA", 0), ("postero-anterior", 0), ("AP AXIAL", 1), ("AP_horizontal", 1)),
    *(("antero-posterior", 1), ("left lateral", 2), ("COSTAL", 2), ("PAN", -1)),
    *(("", -1), ("frontal", -1), ("Lateral view", 2), ("CHEST_LATERAL", 2)),
    *(("lateral decubitus", -1), ("AP lateral decubitus", 1), ("PA and lateral", -1)),
  ],
)
def test_parse_view_knows_the_names_of_corpora(text, view):
  assert labelled.parse_view(text) == view


def test_read_table_notes_views_that_it_does_not_know(tmp_path):
  rows = [["image", "findings", "view"], ["a.png", "Edema", "PA"], ["b.jpg", "", ""]]
  rows += [[f"{n}.png", "", f"erect {n % 4}"] for n in range(5)]
  note = read(write(tmp_path, rows)).notes[-1]
  expected = "5 cells of 'view' name no known view, as 'erect 0', 'erect 1', 'erect 2'"
  assert note == expected


def test_read_table_wants_one_table(tmp_path):
  root = write(tmp_path)
  (root / "more.csv").write_text("image,findings\na.png,Edema\n")
  (root / "._labels.csv").write_text("")
  with pytest.raises(errors.InputError, match=r"2 tables: labels.csv, more.csv"):
    read(root)
  got = read(root / "more.csv")
  assert len(got) == 1
  (tmp_path / "excel").mkdir()
  (tmp_path / "excel" / "labels.xlsx").write_bytes(b"PK")
  with pytest.raises(errors.InputError, match=r"no table but labels.xlsx; .*CSV UTF-8"):
    read(tmp_path / "excel")
  assert got.official is None


def test_patient_numbers_are_stable_and_never_shared(monkeypatch):
  names = [f"patient {number}" for number in range(200)]
  numbers = base.patient_numbers([*names, "patient 0"])
  assert numbers[0] == numbers[-1]
  assert len(set(numbers.tolist())) == 200
  np.testing.assert_array_equal(base.patient_numbers(names[50:]), numbers[50:-1])
  monkeypatch.setattr(base, "hash31", lambda name, attempt: attempt)
  assert base.patient_numbers(["b", "a", "b"]).tolist() == [1, 0, 1]


def test_prepare_records_reads_a_table_with_its_own_split(tmp_path):
  root = write(tmp_path / "own")
  settings = DataSettings(
    root=str(root),
    source="table",
    image_size=16,
    records_dir=str(tmp_path / "records"),
    missing="drop",
  )
  prepared = records.prepare_records(settings)
  assert prepared.num_rows == {"train": 1, "validation": 1, "test": 1, "expert": 0}
  assert prepared.dropped == ("gone",)
  (row,) = records.RecordSource(prepared, "train")
  assert row["findings"].tolist() == [1, 1]


def test_prepare_records_takes_a_table_that_states_no_finding(tmp_path):
  rows = [["image", "findings", "split"], ["a.png", "", "train"], ["d.png", "", "val"]]
  root = write(tmp_path / "own", rows)
  settings = DataSettings(
    root=str(root), source="table", image_size=16, records_dir=str(tmp_path / "records")
  )
  prepared = records.prepare_records(settings)
  assert prepared.vocabulary == ()
  assert prepared.boxes("train").shape == (1, 0, 4)
  (row,) = records.RecordSource(prepared, "train")
  assert row["findings"].shape == (0,)


def test_read_table_says_what_is_wrong_in_a_cell_in_one_sentence(tmp_path):
  rows = [["image", "findings", "boxes"], ["a.png", "Edema", "Edme 0.1 0.1 0.2 0.2"]]
  message = r"read\): unknown finding 'Edme'; expected one of .*; fix: did you"
  with pytest.raises(errors.InputError, match=message):
    read(write(tmp_path, rows))
  rows[1][2] = "Edema 0.1 x 0.2 0.2"
  with pytest.raises(errors.InputError, match="expected a number in place of 'x'"):
    read(write(tmp_path, rows))


def test_read_table_counts_reports_of_which_nothing_is_taken(tmp_path):
  rows = [["image", "findings", "report"]]
  rows += [["a.png", "", "BEFUND: Erguss."], ["b.jpg", "", "Clear."], ["d.png", "", ""]]
  got = read(write(tmp_path, rows))
  assert got.report == {"b": "Clear."}
  assert "1 reports have headings, but neither" in got.notes[-1]
  assert got.notes[-1].endswith("first line 2")
