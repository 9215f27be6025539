"""`data/array_records.py`: a damaged record is named with its file and row."""

import pickle

import pytest

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.data import array_records


def test_open_files_names_the_file_of_a_damaged_record(tmp_path):
  files = [(tmp_path / f"{name}.array_record", 3) for name in "ab"]
  for path, num_rows in files:
    records = [bytes([row]) * 5000 for row in range(num_rows)]
    array_records.write(path, records, compression="uncompressed")
  content = bytearray(files[1][0].read_bytes())
  place = content.index(bytes([1]) * 100)
  content[place] ^= 1
  files[1][0].write_bytes(content)
  opened = pickle.loads(pickle.dumps(array_records.open_files(files)))
  assert len(opened) == 6
  assert opened[1] == bytes([1]) * 5000
  assert opened[5] == bytes([2]) * 5000
  with pytest.raises(errors.InputError, match=r"b\.array_record is damaged in row 4"):
    opened[4]
