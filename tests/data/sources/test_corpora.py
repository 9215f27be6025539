"""CheXpert, MIMIC-CXR, PadChest and VinDr-CXR, each in its published form."""

from collections.abc import Callable
from pathlib import Path

from etils import epath
import numpy as np
import pytest

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.data import csv_table, dataset_table
from cxr_diffusion_jax.data.records import records
from cxr_diffusion_jax.data.settings import DataSettings
from cxr_diffusion_jax.data.sources import base, padchest
from tests.fixtures import corpora

TEXT = "There is a small right effusion. No pneumothorax. Small right pleural effusion."
PLUS = "train/patient00002/study1/view1_frontal.jpg"
ALL_VIEWS = "PA,AP,unknown,lateral"


def read(source: str, root: Path, **options) -> base.Table:
  settings = DataSettings(root=str(root), source=source, image_size=16, **options)
  return dataset_table.read_table(settings)


def states(table: base.Table, row: int) -> dict[str, float]:
  """The findings of a row that are known."""
  known = zip(table.vocabulary, table.findings[row].tolist(), strict=True)
  return {name: value for name, value in known if not np.isnan(value)}


def test_chexpert_keeps_uncertain_and_blank_labels_unknown(tmp_path):
  root = corpora.write_chexpert(tmp_path)
  table = read("chexpert", root, views=ALL_VIEWS)
  assert table.id.tolist() == [
    "patient00001-study1-view1_frontal",
    "patient00002-study1-view1_frontal",
    "patient00002-study1-view2_lateral",
    "patient00003-study2-view1_frontal",
    "patient64541-study1-view1_frontal",
  ]
  # `No Finding` is of all pathologies; devices are none.
  pathologies = set(table.vocabulary) - {"Support_Devices"}
  assert states(table, 0) == dict.fromkeys(pathologies, 0.0)
  assert states(table, 1) == {"Effusion": 1.0, "Fracture": 0.0}
  assert states(table, 3) == {}
  assert table.patient.tolist() == [1, 2, 2, 3, 64541]
  assert table.sex.tolist() == [0, 1, 1, -1, 1]
  assert table.age.tolist() == [68, 90, 90, 0, 73]
  assert table.official.tolist() == ["train"] * 4 + ["test"]
  assert all(table.image)
  assert read("chexpert", root).view.tolist() == [1, 0, 1, 1]
  assert len(read("chexpert", root, views="lateral")) == 1


def test_chexpert_takes_its_test_set_and_the_reports_of_plus(tmp_path):
  root = corpora.write_chexpert(tmp_path)
  path = "test/patient64741/study1/view1_frontal.jpg"
  corpora.write_csv(
    root / "test_labels.csv",
    [("Path", *corpora.CHEXPERT_LABELS), (path, *("0.0",) * 14)],
  )
  corpora.write_csv(
    root / "df_chexpert_plus_240401.csv",
    [
      ("path_to_image", "section_findings", "section_impression"),
      (f"CheXpert-v1.0/{PLUS}", "Edema.", "Worse than ___."),
    ],
  )
  table = read("chexpert", root)
  assert table.official.tolist()[-2:] == ["validation", "test"]
  assert table.image[-1] is None
  assert table.report == {"patient00002-study1-view1_frontal": "Edema. Worse."}


def test_chexpert_fills_no_uncertain_label_and_keeps_what_contradicts(tmp_path):
  root = corpora.write_chexpert(tmp_path)
  path = root / "train.csv"
  rows = [line.split(",") for line in path.read_text().splitlines()]
  edema = rows[0].index("Edema")
  rows[1][edema] = "-1.0"
  rows[4][rows[0].index("No Finding")], rows[4][edema] = "1.0", "1.0"
  corpora.write_csv(path, rows)
  table = read("chexpert", root)
  rest = {*table.vocabulary} - {"Support_Devices", "Edema"}
  assert states(table, 0) == dict.fromkeys(rest, 0.0)
  assert states(table, 2) == {"Edema": 1.0}
  assert "train.csv has 1 rows with No Finding and a path" in table.notes[0]
  assert "first line 5" in table.notes[0]


def test_mimic_cxr_joins_labels_splits_and_reports(tmp_path):
  root = corpora.write_mimic_cxr(tmp_path)
  table = read("mimic_cxr", root, views=ALL_VIEWS)
  assert table.id.tolist() == ["02aa804e", "174413ec", "2a2277a9", "e084de3b"]
  assert table.patient.tolist() == [10000032, 10000032, 10000764, 10001884]
  assert states(table, 0) == states(table, 1) == {"Effusion": 1.0}
  assert set(states(table, 2).values()) == {0.0}
  assert states(table, 3) == {}
  assert table.official.tolist() == ["train", "train", "validation", "test"]
  assert table.report == dict.fromkeys(table.id.tolist()[:3], TEXT)
  assert np.isnan(table.age).all()
  assert read("mimic_cxr", root).view.tolist() == [0, 1, -1]
  assert all(table.image)


def test_mimic_cxr_reads_sectioned_reports_and_patients(tmp_path):
  root = corpora.write_mimic_cxr(tmp_path, texts=False)
  assert read("mimic_cxr", root).report is None
  corpora.write_csv(
    root / "mimic_cxr_sectioned.csv",
    [
      ("study", "impression", "findings", "last_paragraph", "comparison"),
      ("s50414267", "Worse.", "Edema since ___.", "", "None."),
      ("s57375967", "", "", "Clear.", ""),
    ],
  )
  corpora.write_csv(
    root / "patients.csv.gz",
    [
      ("subject_id", "gender", "anchor_age", "anchor_year", "anchor_year_group", "dod"),
      (10000032, "F", 52, 2180, "2014 - 2016", ""),
    ],
  )
  table = read("mimic_cxr", root)
  assert table.report is not None
  assert table.report["02aa804e"] == "Edema. Worse."
  assert table.report["2a2277a9"] == "Clear."
  assert table.sex.tolist() == [0, -1, -1]
  np.testing.assert_array_equal(table.age, np.float32([52, np.nan, np.nan]))


def edit(path: Path, old: str, new: str) -> None:
  text = csv_table.read_text(path).replace(old, new)
  corpora.write_csv(path, [line.split(",") for line in text.splitlines()])


@pytest.mark.parametrize(
  ("source", "name", "old", "new", "message"),
  [
    ("chexpert", "train.csv", "00002", "9" * 11, "line 3: 'Path' is .*patient99999"),
    ("mimic_cxr", "metadata", "10000032", "9" * 11, "line 2: 'subject_id' is"),
    (
      "mimic_cxr",
      "chexpert",
      "5",
      "9",
      "none of the studies of .*first 50414267",
    ),
  ],
)
def test_corpora_refuse_numbers_that_join_nothing(
  source, name, old, new, message, tmp_path
):
  root = getattr(corpora, f"write_{source}")(tmp_path)
  if not name.endswith(".csv"):
    name = f"mimic-cxr-2.0.0-{name}.csv.gz"
  edit(root / name, old, new)
  with pytest.raises(errors.InputError, match=message):
    read(source, root)


@pytest.mark.parametrize(
  ("source", "name"),
  [
    ("chexpert", "valid.csv"),
    ("mimic_cxr", "mimic-cxr-2.0.0-split.csv.gz"),
    ("vindr", "annotations/annotations_test.csv"),
  ],
)
def test_corpora_refuse_tables_that_are_lost(source, name, tmp_path):
  root = getattr(corpora, f"write_{source}")(tmp_path)
  (root / name).unlink()
  (root / name).symlink_to("/gone")
  with pytest.raises(errors.InputError, match=f"{name} is a link to nothing"):
    read(source, root)


def test_chexpert_refuses_tables_without_labels(tmp_path):
  root = corpora.write_chexpert(tmp_path)
  path = root / "train.csv"
  rows = [line.split(",")[:5] for line in path.read_text().splitlines()]
  corpora.write_csv(path, rows)
  with pytest.raises(errors.InputError, match=r"train.csv has no labels"):
    read("chexpert", root)


def test_padchest_takes_lists_as_complete_unless_they_say_otherwise(tmp_path):
  root = corpora.write_padchest(tmp_path)
  table = read("padchest", root, views=ALL_VIEWS)
  known = states(table, 0)
  assert {name for name, value in known.items() if value} == {
    *("Effusion", "Pneumothorax", "Fracture"),
  }
  assert len(known) == len(table.vocabulary)
  assert set(states(table, 1).values()) == {0.0}
  assert states(table, 2) == {"Cardiomegaly": 1.0}
  assert states(table, 3) == {}
  assert len(set(table.patient.tolist())) == 4
  assert table.patient[0] == table.patient[1]
  assert table.age.tolist() == [61] * 6
  assert table.official is None
  assert table.report is not None
  assert set(table.report.values()) == {"sin hallazgos patologicos."}
  assert read("padchest", root).view.tolist() == [0, 1, 0, 0]


def test_padchest_leaves_findings_open():
  findings = padchest.parse_labels("['COPD signs', 'kyphosis']")
  known = dict(zip(padchest.VOCABULARY, findings.tolist(), strict=True))
  assert known["COPD"] == 1
  assert np.isnan(known.pop("Emphysema"))
  assert sum(known.values()) == 1
  both = padchest.parse_labels("['bullas', 'emphysema']")
  assert both[padchest.VOCABULARY.index("Emphysema")] == 1


@pytest.mark.parametrize(
  "text",
  ["normal", "[", "3", "__import__('os')", "'mass'", "{'mass': 1}", "['a'", "[1]"],
)
def test_padchest_refuses_what_is_no_list(text):
  with pytest.raises(ValueError, match="list"):
    padchest.parse_labels(text)


def test_padchest_reads_lists_as_numpy_writes_them():
  findings = padchest.parse_labels("['pneumonia' 'cardiomegaly'\n ' ' \"mass\"]")
  known = zip(padchest.VOCABULARY, findings.tolist(), strict=True)
  assert {n for n, value in known if value} == {"Pneumonia", "Cardiomegaly", "Mass"}


def test_vindr_takes_majorities_and_median_boxes(tmp_path):
  root = corpora.write_vindr(tmp_path)
  table = read("vindr", root)
  assert table.id.tolist() == ["a1", "b2", "c3", "d4", "e5"]
  row = dict(zip(table.vocabulary, table.findings[0].tolist(), strict=True))
  assert row["Nodule_or_Mass"] == 1
  # One reader of three.
  assert np.isnan(row["Interstitial_Lung_Disease"])
  assert sum(value == 0 for value in row.values()) == len(row) - 2
  assert set(states(table, 1).values()) == {0.0}
  assert states(table, 2)["COPD"] == 1
  assert table.official.tolist() == ["train"] * 3 + ["test"] * 2
  assert table.view.tolist() == [0] * 5
  assert len(set(table.patient.tolist())) == 5
  assert sorted(table.boxes) == ["a1", "d4"]
  box = table.boxes["a1"][table.vocabulary.index("Nodule_or_Mass")]
  # Readers: (4, 2, 8, 4), (4, 2, 10, 4), (6, 3, 6, 3) in pixels of 20x40.
  np.testing.assert_allclose(box, [4 / 20, 2 / 40, 8 / 20, 4 / 40])
  assert np.isfinite(table.boxes["a1"]).all(axis=1).sum() == 1
  (root / "train" / "a1.dicom").write_bytes(b"damaged")
  assert np.isnan(read("vindr", root).boxes["a1"]).all()
  # Boxes of an image without labels.
  labels = root / "annotations" / "image_labels_test.csv"
  labels.write_text(labels.read_text().replace("d4,", "d5,"))
  assert sorted(read("vindr", root).boxes) == ["a1"]


WRITERS: dict[str, Callable[[Path], Path]] = {
  "chexpert": corpora.write_chexpert,
  "mimic_cxr": corpora.write_mimic_cxr,
  "padchest": corpora.write_padchest,
  "vindr": corpora.write_vindr,
}


@pytest.mark.parametrize(
  ("source", "before", "after"),
  [
    ("chexpert", 4, 3),
    ("mimic_cxr", 3, 2),
    ("padchest", 4, 3),
    ("vindr", 5, 4),
  ],
)
def test_corpora_become_records_of_whole_and_partial_downloads(
  source, before, after, tmp_path
):
  root = WRITERS[source](tmp_path)
  settings = DataSettings(
    root=str(root),
    source=source,
    image_size=16,
    records_dir=str(tmp_path / "records"),
    missing="drop",
  )
  prepared = records.prepare_records(settings)
  assert sum(prepared.num_rows.values()) == before
  assert prepared.dropped == ()
  assert prepared.vocabulary == records.vocabulary(settings)
  table = dataset_table.read_table(settings)
  gone = prepared.ids("test")[0]
  Path(table.image[table.id.tolist().index(gone)]).unlink()
  partial = records.prepare_records(settings)
  assert sum(partial.num_rows.values()) == after
  assert partial.dropped == (gone,)


def test_corpora_are_read_from_a_bucket(bucket, tmp_path):
  for source, write in WRITERS.items():
    root = write(tmp_path)
    for path in root.rglob("*"):
      if path.is_file():
        target = epath.Path(bucket) / source / path.relative_to(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    here, there = read(source, root), read(source, f"{bucket}/{source}")
    assert there.id.tolist() == here.id.tolist()
    np.testing.assert_array_equal(there.findings, here.findings)
    assert all(path.startswith(bucket) for path in there.image)
    assert sorted(there.boxes) == sorted(here.boxes)
    assert there.report == here.report
  # DICOM of the bucket is decoded too.
  settings = DataSettings(
    root=f"{bucket}/vindr",
    source="vindr",
    image_size=16,
    records_dir=str(tmp_path / "records"),
  )
  assert sum(records.prepare_records(settings).num_rows.values()) == 5


@pytest.mark.parametrize("source", WRITERS)
def test_corpora_name_what_a_root_lacks(source, tmp_path):
  with pytest.raises(errors.InputError, match=r"data root .*; fix: .* from https://"):
    read(source, tmp_path)
  with pytest.raises(errors.InputError, match="no such folder"):
    read(source, tmp_path / "absent")
