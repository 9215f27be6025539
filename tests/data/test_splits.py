"""`data/splits.py`: no patient in two splits, no expert test image in training."""

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.data import splits
from cxr_diffusion_jax.data.sources.nih import metadata


def entries_of(patients) -> metadata.Entries:
  patients = np.asarray(patients, np.int32)
  seen: dict[int, int] = {}
  ids = []
  for patient in patients.tolist():
    seen[patient] = seen.get(patient, -1) + 1
    ids.append(f"{patient:08d}_{seen[patient]:03d}")
  n = len(patients)
  return metadata.Entries(
    id=np.array(ids, np.str_),
    patient=patients,
    age=np.zeros(n, np.float32),
    sex=np.zeros(n, np.int8),
    view=np.zeros(n, np.int8),
    follow_up=np.zeros(n, np.int32),
    findings=np.zeros((n, 14), np.uint8),
    width=np.zeros(n, np.float32),
    height=np.zeros(n, np.float32),
    spacing=np.zeros((n, 2), np.float32),
  )


@given(
  patients=st.lists(st.integers(1, 40), min_size=1, max_size=80),
  expert=st.sets(st.integers(0, 79)),
  test_patients=st.none() | st.sets(st.integers(1, 40)),
  fraction=st.floats(0, 0.5),
  train_on_expert=st.booleans(),
)
def test_no_patient_in_two_splits_and_no_expert_image_trained_on(
  patients, expert, test_patients, fraction, train_on_expert
):
  entries = entries_of(patients)
  expert_ids = {str(entries.id[row]) for row in expert if row < len(entries)}
  official = None
  if test_patients is not None:
    in_test = np.isin(entries.patient, list(test_patients))
    official = (set(entries.id[~in_test]), set(entries.id[in_test]))
  split = splits.assign_splits(
    entries,
    official=official,
    expert_ids=expert_ids,
    validation_fraction=fraction,
    train_on_expert=train_on_expert,
  )
  assert set(split) <= set(splits.SPLITS)
  for patient in np.unique(entries.patient):
    assert len(set(split[entries.patient == patient])) == 1
  if official is not None:
    assert np.array_equal(split == "test", in_test)
  of_expert = np.isin(entries.id, list(expert_ids))
  if train_on_expert:
    assert "expert" not in split
  else:
    assert set(split[of_expert]) <= {"test", "expert"}


def test_fractions_are_kept_and_stable_when_patients_are_added():
  few, many = entries_of(range(1, 2001)), entries_of(range(1, 4001))
  split = splits.assign_splits(many, official=None, validation_fraction=0.1)
  assert abs((split == "test").mean() - splits.TEST_FRACTION) < 0.03
  rest = split[split != "test"]
  assert abs((rest == "validation").mean() - 0.1) < 0.03
  before = splits.assign_splits(few, official=None, validation_fraction=0.1)
  assert np.array_equal(before, split[:2000])


def test_small_trees_get_validation_and_none_where_none_is_wanted():
  entries = entries_of([1, 1, 2, 3])
  everything = (set(entries.id), set())
  split = splits.assign_splits(entries, official=everything, validation_fraction=0.01)
  assert {"train", "validation"} == set(split)
  split = splits.assign_splits(entries, official=everything, validation_fraction=0)
  assert set(split) == {"train"}


def test_rows_in_no_list_and_patients_in_both():
  entries = entries_of([1, 1, 2])
  with pytest.raises(errors.InputError, match=r"1 images are in neither.*00000002_000"):
    splits.assign_splits(entries, official=({"00000001_000", "00000001_001"}, {"x"}))
  lists = ({"00000001_000", "00000002_000"}, {"00000001_001"})
  with pytest.raises(errors.InputError, match=r"1 patients are in .*first 1;"):
    splits.assign_splits(entries, official=lists)


@pytest.mark.parametrize("fraction", [-0.1, 1.0])
def test_impossible_fractions(fraction):
  with pytest.raises(errors.InputError, match="validation_fraction"):
    splits.assign_splits(entries_of([1]), official=None, validation_fraction=fraction)


def test_lists_are_read(tmp_path):
  path = tmp_path / "test_list.txt"
  path.write_text("00000001_000.png\r\n\n00000002_001.png")
  assert splits.read_list(path) == {"00000001_000", "00000002_001"}
  path.write_text("\n")
  with pytest.raises(errors.InputError, match="is empty"):
    splits.read_list(path)
