"""A dataset is prepared and opened at once."""

import pytest

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.conditioning import base as conditioning
from cxr_diffusion_jax.data import dataset_table
from cxr_diffusion_jax.data.settings import DataSettings
from cxr_diffusion_jax.run import dataset as dataset_lib
from tests.fixtures import corpora


def test_prepare_reads_the_table_once(tmp_path, monkeypatch):
  root = corpora.write_mimic_cxr(tmp_path)
  settings = DataSettings(
    root=str(root), source="mimic_cxr", image_size=16, records_dir=str(tmp_path / "r")
  )
  reads = []
  read_table = dataset_table.read_table
  monkeypatch.setattr(
    dataset_table, "read_table", lambda one: reads.append(one) or read_table(one)
  )
  for starts in (1, 2):
    dataset = dataset_lib.prepare(settings, conditioning.Needs())
    assert dataset.records.num_rows["train"] == 1
    assert len(reads) == starts


def test_prepare_refuses_rows_without_a_report_before_images_are_read(tmp_path):
  root = corpora.write_mimic_cxr(tmp_path)
  settings = DataSettings(
    root=str(root),
    source="mimic_cxr",
    image_size=16,
    records_dir=str(tmp_path / "r"),
    prompts="report",
  )
  text = conditioning.ColumnSpec(
    name="clip_text", encoder="clip", source="text", model="standin"
  )
  with pytest.raises(errors.InputError, match=r"1 images .* have no report"):
    dataset_lib.prepare(settings, conditioning.Needs(specs=(text,)))
  assert not [*(tmp_path / "r").rglob("*array_record*")]
