"""`data/labels.py`: text and multi-hot are inverse."""

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.data import labels
from cxr_diffusion_jax.data.sources.nih import metadata


@given(st.sets(st.sampled_from(metadata.FINDINGS)))
def test_parse_and_names_of_are_inverse(names):
  row = labels.parse("|".join(sorted(names)) or labels.NO_FINDING, metadata.FINDINGS)
  assert row.shape == (14,)
  assert row.dtype == np.uint8
  assert set(labels.names_of(row, metadata.FINDINGS)) == names


def test_findings_are_alphabetical():
  assert list(metadata.FINDINGS) == sorted(metadata.FINDINGS)
  assert len(set(metadata.FINDINGS)) == 14


@pytest.mark.parametrize(
  ("spelling", "name"),
  [
    ("Pleural Thickening", "Pleural_Thickening"),
    ("pleural_thickening", "Pleural_Thickening"),
    ("Infiltrate", "Infiltration"),
    (" Mass ", "Mass"),
  ],
)
def test_finding_index_accepts_spellings(spelling, name):
  assert metadata.FINDINGS[labels.finding_index(spelling, metadata.FINDINGS)] == name


@pytest.mark.parametrize(
  ("typed", "meant"),
  [
    ("Efusion", "Effusion"),
    ("EFFUSIONS", "Effusion"),
    ("cardiomegly", "Cardiomegaly"),
    ("pneumotorax", "Pneumothorax"),
    ("Oedema", "Edema"),
    ("pleural effusion", "Effusion"),
    ("pleural thickenning", "Pleural_Thickening"),
    ("hiatal hernia", "Hernia"),
    ("nodules", "Nodule"),
    ("NoFinding", "No Finding"),
  ],
)
def test_finding_index_suggests_the_nearest_name(typed, meant):
  with pytest.raises(errors.InputError) as raised:
    labels.finding_index(typed, metadata.FINDINGS)
  text = str(raised.value)
  assert text.startswith(f"unknown finding {typed!r}; expected one of Atelectasis, ")
  assert f"did you mean {meant}" in text


def test_finding_index_suggests_nothing_for_unlike_names():
  with pytest.raises(errors.InputError) as raised:
    labels.finding_index("Zebra", metadata.FINDINGS)
  assert "did you mean" not in str(raised.value)
  assert "Pneumothorax or No Finding" in str(raised.value)


@pytest.mark.parametrize(
  ("text", "names"),
  [
    ("Effusion,Cardiomegaly", ("Cardiomegaly", "Effusion")),
    (" effusion | mass,", ("Effusion", "Mass")),
    ("pleural thickening", ("Pleural_Thickening",)),
    ("no finding", ()),
    ("Mass,Mass", ("Mass",)),
  ],
)
def test_parse_reads_typed_lists(text, names):
  row = labels.parse(text, metadata.FINDINGS)
  assert row.shape == (14,)
  assert row.dtype == np.uint8
  assert labels.names_of(row, metadata.FINDINGS) == names


VALUES = st.lists(st.sampled_from([0.0, 1.0, np.nan]), min_size=14, max_size=14)


@given(VALUES)
def test_parse_and_text_of_are_inverse_with_unknown_findings(values):
  row = np.float32(values)
  read = labels.parse(labels.text_of(row, metadata.FINDINGS), metadata.FINDINGS)
  assert np.array_equal(read, row, equal_nan=True)
  stated = labels.stated(row, metadata.FINDINGS)
  if (row == 1).any():
    assert stated == labels.names_of(row, metadata.FINDINGS)
  else:
    assert stated == (None if np.isnan(row).any() else ())
  assert labels.is_none(row) == (row == 0).all()


def test_full_negatives_need_no_word_on_devices():
  vocabulary = ("Edema", "Support_Devices")
  rows = np.float32([[0, np.nan], [0, 0], [np.nan, 0], [0, 1], [1, np.nan]])
  assert labels.is_none(rows, vocabulary).tolist() == [True, True, False, False, False]
  stated = [labels.stated(row, vocabulary) for row in rows]
  assert stated == [(), (), None, ("Support_Devices",), ("Edema",)]


def test_no_finding_is_said_of_no_row_without_a_known_pathology():
  rows = np.float32([[np.nan], [0]])
  assert not labels.is_none(rows, ("Support Devices",)).any()
  assert not labels.is_none(np.zeros((2, 0)), ()).any()


@pytest.mark.parametrize(
  ("text", "present", "unknown"),
  [
    ("Effusion, edema=?", "Effusion", "Edema"),
    ("=?", "", "all"),
    ("Mass|=?", "Mass", "all but Mass"),
  ],
)
def test_parse_reads_unknown_findings(text, present, unknown):
  row = labels.parse(text, metadata.FINDINGS)
  assert labels.names_of(row, metadata.FINDINGS) == tuple(present.split())
  number = {"all": 14, "all but Mass": 13}.get(unknown, 1)
  assert np.isnan(row).sum() == number


@given(st.lists(st.sampled_from(metadata.FINDINGS), min_size=1), st.sampled_from(",|"))
def test_parse_reads_any_list(names, separator):
  row = labels.parse(separator.join(names), metadata.FINDINGS)
  assert labels.names_of(row, metadata.FINDINGS) == tuple(sorted(set(names)))


@pytest.mark.parametrize(
  "text",
  [
    "",
    "|",
    " , ",
    "Mass,No Finding",
    "No Finding|Mass",
    "Mass,Influenza",
    "Mass|Mass=?",
  ],
)
def test_parse_refuses_bad_lists(text):
  with pytest.raises(errors.InputError):
    labels.parse(text, metadata.FINDINGS)
