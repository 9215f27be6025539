"""`data/labels.py`: text and multi-hot are inverse; the class tools keep their word."""

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.data import labels
from cxr_diffusion_jax.data.sources.nih import metadata


@given(st.lists(st.sets(st.sampled_from(metadata.FINDINGS)), max_size=8))
def test_multi_hot_and_names_are_inverse(rows):
  texts = ["|".join(sorted(row)) or labels.NO_FINDING for row in rows]
  findings = labels.multi_hot(texts, metadata.FINDINGS)
  assert findings.shape == (len(rows), 14)
  assert findings.dtype == np.uint8
  assert [set(labels.names_of(row, metadata.FINDINGS)) for row in findings] == rows


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
def test_spellings(spelling, name):
  assert metadata.FINDINGS[labels.finding_index(spelling, metadata.FINDINGS)] == name


@pytest.mark.parametrize("text", ["Influenza", "No Finding|Mass", "", "|"])
def test_bad_texts_are_refused(text):
  with pytest.raises(errors.InputError):
    labels.multi_hot([text], metadata.FINDINGS)


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
def test_nearest_names_are_told(typed, meant):
  with pytest.raises(errors.InputError) as raised:
    labels.finding_index(typed, metadata.FINDINGS)
  text = str(raised.value)
  assert text.startswith(f"unknown finding {typed!r}; expected one of Atelectasis, ")
  assert f"did you mean {meant}" in text


def test_what_is_near_to_nothing_gets_no_suggestion():
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
def test_typed_lists_are_parsed(text, names):
  row = labels.parse(text, metadata.FINDINGS)
  assert row.shape == (14,)
  assert row.dtype == np.uint8
  assert labels.names_of(row, metadata.FINDINGS) == names


@given(st.lists(st.sampled_from(metadata.FINDINGS), min_size=1), st.sampled_from(",|"))
def test_any_list_is_parsed(names, separator):
  row = labels.parse(separator.join(names), metadata.FINDINGS)
  assert labels.names_of(row, metadata.FINDINGS) == tuple(sorted(set(names)))


@pytest.mark.parametrize("text", ["", " , ", "Mass,No Finding", "Mass,Influenza"])
def test_bad_lists_are_refused(text):
  with pytest.raises(errors.InputError):
    labels.parse(text, metadata.FINDINGS)


def test_top_k_is_by_frequency_then_name():
  findings = labels.multi_hot(
    ["Mass|Edema", "Mass", "Edema|Hernia", "No Finding"], metadata.FINDINGS
  )
  assert labels.top_k(findings, metadata.FINDINGS, 3) == ("Edema", "Mass", "Hernia")


def test_merge_is_any_of_its_findings():
  findings = labels.multi_hot(
    ["Mass", "Nodule|Edema", "No Finding", "Hernia"], metadata.FINDINGS
  )
  merged = labels.merge(
    findings,
    metadata.FINDINGS,
    {"lesion": ["Mass", "Nodule"], "none": ["No Finding"], "Edema": ["Edema"]},
  )
  assert merged.tolist() == [[1, 0, 0], [1, 0, 1], [0, 1, 0], [0, 0, 0]]
  with pytest.raises(errors.InputError, match="Influenza"):
    labels.merge(findings, metadata.FINDINGS, {"flu": ["Influenza"]})


def test_balance_limits_common_classes_and_keeps_rare_ones():
  texts = ["No Finding"] * 50 + ["Mass"] * 20 + ["Mass|Hernia"] * 3 + ["Hernia"]
  findings = labels.multi_hot(texts, metadata.FINDINGS)
  kept = labels.balance(findings, limit=5, seed=0)
  assert np.array_equal(kept, np.unique(kept))
  assert (~findings[kept].any(axis=1)).sum() == 5
  hernia = metadata.FINDINGS.index("Hernia")
  assert findings[kept][:, hernia].sum() == 4
  assert len(kept) == 14
  assert np.array_equal(kept, labels.balance(findings, limit=5, seed=0))
  assert not np.array_equal(kept, labels.balance(findings, limit=5, seed=1))
  assert labels.balance(findings, limit=100, seed=0).tolist() == list(range(74))


def test_saved_labels_are_loaded(tmp_path):
  findings = labels.multi_hot(["Mass", "No Finding"], metadata.FINDINGS)
  path = tmp_path / "labels.csv"
  labels.save_labels(path, ["a", "b"], metadata.FINDINGS, findings)
  ids, names, values = labels.load_labels(path)
  assert ids.tolist() == ["a", "b"]
  assert names == metadata.FINDINGS
  np.testing.assert_array_equal(values, findings)
  path.write_text("Image Index,Mass\na,2\n")
  with pytest.raises(errors.InputError, match="line 2"):
    labels.load_labels(path)
  path.write_text("a,b\n")
  with pytest.raises(errors.InputError, match="no header"):
    labels.load_labels(path)
