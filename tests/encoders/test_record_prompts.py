"""Texts of a tree: they say what the labels say, or what the reports do."""

import dataclasses
import pathlib

import numpy as np
import pytest

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.data import labels, prompts
from cxr_diffusion_jax.data.sources.nih import metadata
from cxr_diffusion_jax.encoders import encoding
from tests.fixtures import places
from tests.prompt_reader import findings_of


def write_reports(root: str, reported: dict[str, str]) -> None:
  """Adds a column `report` to the CSV of a tree."""
  path = pathlib.Path(root) / "Data_Entry_2017.csv"
  header, *rows = path.read_text().splitlines()
  lines = [f"{header.removesuffix(',')},report"]
  for row in rows:
    stem = row.split(".png")[0]
    lines.append(f'{row.removesuffix(",")},"{reported.get(stem, "")}"')
  path.write_text("\n".join(lines) + "\n")


def all_texts(settings, records) -> dict[str, str]:
  """Image id -> text, over all splits."""
  return {
    name: text
    for split in records.num_rows
    for name, text in zip(
      records.ids(split).tolist(),
      encoding.record_prompts(settings, records, split),
      strict=True,
    )
  }


def test_record_prompts_state_the_labels(prepared, open_records):
  records = open_records(prepared)
  for split, count in records.num_rows.items():
    result = encoding.record_prompts(prepared, records, split)
    fields = records.fields(split)
    assert len(result) == count
    for text, findings, age in zip(
      result, fields["findings"], fields["age"], strict=True
    ):
      assert findings_of(text) == tuple(labels.names_of(findings, metadata.FINDINGS)), (
        text
      )
      assert f"{age:.0f} year old" in text


def test_record_prompts_of_another_seed_keep_the_findings(prepared, open_records):
  records = open_records(prepared)
  one = all_texts(prepared, records)
  other = all_texts(dataclasses.replace(prepared, prompt_seed=1), records)
  assert list(one) == list(other)
  assert sum(one[name] != other[name] for name in one) > len(one) / 2
  for name, text in one.items():
    assert findings_of(text) == findings_of(other[name])


def test_record_prompts_name_places_only_with_boxes(settings, open_records):
  path = pathlib.Path(settings.root) / "BBox_List_2017.csv"
  marked = metadata.read_boxes(path)
  reported = all_texts(settings, open_records(settings))
  sides = set()
  for name, text in reported.items():
    of_image = marked.get(name, np.full((len(metadata.FINDINGS), 4), np.nan))
    wanted = {}
    for finding in findings_of(text):
      box = of_image[labels.finding_index(finding, metadata.FINDINGS)]
      has_side = prompts.phrasings()["findings"][finding]["region"] is not None
      if has_side and any(prompts.place_of(box)):
        wanted[finding] = prompts.place_of(box)
    assert places.places_of(text) == wanted, text
    sides |= {side for side, _ in wanted.values()}
  assert {"left", "right"} <= sides
  path.unlink()
  for text in all_texts(settings, open_records(settings)).values():
    assert places.places_of(text) == {}


def test_record_prompts_do_not_depend_on_the_image_size(settings, open_records):
  whole = all_texts(settings, open_records(settings))
  other = dataclasses.replace(settings, resize="pad", image_size=16)
  assert all_texts(other, open_records(other)) == whole


def test_record_prompts_use_reports_unchanged(settings, open_records):
  ids = all_texts(settings, open_records(settings))
  reported = {name: f"Report of {name}, clear." for name in ids}
  write_reports(settings.root, reported)
  asked = dataclasses.replace(settings, prompts="report")
  assert all_texts(asked, open_records(asked)) == reported
  # The column changes nothing for who does not ask for it.
  assert all_texts(settings, open_records(settings)) == ids


def test_record_prompts_of_reports_are_sentences_of_them(settings, open_records):
  ids = all_texts(settings, open_records(settings))
  text = "Edema in both lungs. Heart is large. No effusion. Tubes in place. Worse." * 4
  write_reports(settings.root, dict.fromkeys(ids, text))
  asked = dataclasses.replace(settings, prompts="report", captions=3)
  records = open_records(asked)
  captions = [encoding.record_prompts(asked, records, "train", n) for n in range(3)]
  assert set(captions[0]) == {text}
  for caption in captions[1:]:
    assert all(one in text for one in caption)
    assert len(set(caption)) > 1
  assert captions[1] != captions[2]
  marks = [encoding.prompts_fingerprint(asked, records, n) for n in range(3)]
  assert len(set(marks)) == 3


def test_record_prompts_leave_out_images_without_a_report(settings, open_records):
  ids = sorted(all_texts(settings, open_records(settings)))
  write_reports(settings.root, dict.fromkeys(ids[1:], "Clear."))
  asked = dataclasses.replace(settings, prompts="report", missing="drop")
  records = open_records(asked)
  assert sorted(all_texts(asked, records)) == ids[1:]
  both = dataclasses.replace(settings, prompts="report_or_labels")
  written = all_texts(settings, open_records(settings))
  texts = all_texts(both, open_records(both))
  assert texts == {**dict.fromkeys(ids, "Clear."), ids[0]: written[ids[0]]}
  assert records.dropped == ()


def test_record_prompts_refuse_missing_reports(settings, open_records):
  asked = dataclasses.replace(settings, prompts="report")
  records = open_records(asked)
  with pytest.raises(errors.InputError, match=r"images of .* a column `report`"):
    encoding.record_prompts(asked, records, "train")
  ids = records.ids("train").tolist()
  write_reports(settings.root, dict.fromkeys(ids[1:], "clear"))
  with pytest.raises(errors.InputError, match=rf"images of .* no report, as {ids[0]}"):
    encoding.record_prompts(asked, open_records(asked), "train")


def test_prompts_fingerprint_follows_what_texts_depend_on(
  settings, open_records, monkeypatch
):
  records = open_records(settings)
  before = encoding.prompts_fingerprint(settings, records)
  of_caption = encoding.prompts_fingerprint(settings, records, 1)
  assert (
    len({before, of_caption, encoding.prompts_fingerprint(settings, records, 2)}) == 3
  )
  dropping = dataclasses.replace(settings, captions=3, caption_drop=0.5)
  assert encoding.prompts_fingerprint(dropping, records) == before
  assert encoding.prompts_fingerprint(dropping, records, 1) != of_caption
  for change in (
    {"prompt_seed": 1},
    {"prompts": "report"},
    {"prompts": "report_or_labels"},
  ):
    changed = dataclasses.replace(settings, **change)
    assert encoding.prompts_fingerprint(changed, records) != before, change
  for change in (
    {"records_dir": "elsewhere"},
    {"standin": True, "standin_steps": 7},
    {"num_workers": 2, "missing": "drop"},
  ):
    changed = dataclasses.replace(settings, **change)
    assert encoding.prompts_fingerprint(changed, records) == before, change
  reports = dataclasses.replace(settings, prompts="report")
  of_reports = encoding.prompts_fingerprint(reports, records)
  with monkeypatch.context() as patch:
    # As after an edit of the phrasings, which reports have no part in.
    patch.setattr(prompts, "fingerprint", lambda: "other")
    assert encoding.prompts_fingerprint(settings, records) != before
    assert encoding.prompts_fingerprint(reports, records) == of_reports
  (pathlib.Path(settings.root) / "BBox_List_2017.csv").unlink()
  assert encoding.prompts_fingerprint(settings, open_records(settings)) != before
