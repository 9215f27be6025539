"""A dataset is prepared and opened at once."""

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
