"""`data/splits.py`: no patient in two splits, no expert test image in training."""

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.data import splits
from cxr_diffusion_jax.data.sources.nih import source


def ids_of(patients: np.ndarray) -> np.ndarray:
  seen: dict[int, int] = {}
  ids = []
  for patient in patients.tolist():
    seen[patient] = seen.get(patient, -1) + 1
    ids.append(f"{patient:08d}_{seen[patient]:03d}")
  return np.array(ids, np.str_)


def assign(patients, **settings) -> np.ndarray:
  patients = np.asarray(patients, np.int32)
  return splits.assign_splits(ids_of(patients), patients, **settings)


@given(
  patients=st.lists(st.integers(1, 40), min_size=1, max_size=80),
  expert=st.sets(st.integers(0, 79)),
  test_patients=st.none() | st.sets(st.integers(1, 40)),
  fraction=st.floats(0, 0.5),
  train_on_expert=st.booleans(),
)
def test_assign_keeps_patients_whole_and_experts_untrained(
  patients, expert, test_patients, fraction, train_on_expert
):
  patients = np.array(patients)
  ids = ids_of(patients)
  expert_ids = {str(ids[row]) for row in expert if row < len(ids)}
  official = None
  if test_patients is not None:
    in_test = np.isin(patients, list(test_patients))
    official = np.where(in_test, "test", "train")
  split = assign(
    patients,
    official=official,
    expert_ids=expert_ids,
    validation_fraction=fraction,
    train_on_expert=train_on_expert,
  )
  assert set(split) <= set(splits.SPLITS)
  for patient in np.unique(patients):
    assert len(set(split[patients == patient])) == 1
  if official is not None:
    assert np.array_equal(split == "test", in_test)
  of_expert = np.isin(ids, list(expert_ids))
  if train_on_expert:
    assert "expert" not in split
  else:
    assert set(split[of_expert]) <= {"test", "expert"}


def test_assign_keeps_fractions_when_patients_are_added():
  split = assign(range(1, 4001), official=None, validation_fraction=0.1)
  assert abs((split == "test").mean() - splits.TEST_FRACTION) < 0.03
  rest = split[split != "test"]
  assert abs((rest == "validation").mean() - 0.1) < 0.03
  before = assign(range(1, 2001), official=None, validation_fraction=0.1)
  assert np.array_equal(before, split[:2000])


def test_assign_gives_small_trees_a_validation_split():
  everything = np.full(4, "train")
  split = assign([1, 1, 2, 3], official=everything, validation_fraction=0.01)
  assert {"train", "validation"} == set(split)
  split = assign([1, 1, 2, 3], official=everything, validation_fraction=0)
  assert set(split) == {"train"}


def test_assign_keeps_the_published_validation_patients():
  official = np.array(["train", "train", "validation", "test"])
  split = assign([1, 2, 3, 4], official=official, validation_fraction=0.5)
  assert split.tolist() == official.tolist()


def test_assign_refuses_rows_in_no_list_and_patients_in_two():
  with pytest.raises(errors.InputError, match=r"not name 1 of 3 images.*00000002_000"):
    assign([1, 1, 2], official=np.array(["train", "train", ""]))
  with pytest.raises(errors.InputError, match=r"1 patients are in two.*first 1;"):
    assign([1, 1, 2], official=np.array(["train", "test", "train"]))


@pytest.mark.parametrize("fraction", [-0.1, 1.0])
def test_assign_refuses_impossible_fractions(fraction):
  with pytest.raises(errors.InputError, match="validation_fraction"):
    assign([1], official=None, validation_fraction=fraction)


def test_read_list_reads_official_lists(tmp_path):
  path = tmp_path / "test_list.txt"
  path.write_text("00000001_000.png\r\n\n00000002_001.png")
  assert source.read_list(path) == {"00000001_000", "00000002_001"}
  path.write_text("\n")
  with pytest.raises(errors.InputError, match="is empty"):
    source.read_list(path)
