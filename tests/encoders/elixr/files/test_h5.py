"""HDF5 files: only wanted blocks are read; damage is reported in one line."""

import h5py
import numpy as np
import pytest

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.encoders.elixr.files import h5 as elixr_h5
from cxr_diffusion_jax.encoders.elixr.files import reader as elixr
from tests.encoders.elixr.files.made_files import (
  read_all,
  stems_of,
  values_of,
  write_h5,
)


def test_h5_reads_only_blocks_with_wanted_rows(tmp_path, monkeypatch):
  stems, values = stems_of(12), values_of("contrastive_img_emb", 12)
  write_h5(
    tmp_path / "elixrb/contrastive/c_1.h5",
    Image__Index=stems.astype("S"),
    contrastive_img_emb=values,
  )
  (file,) = elixr.find_elixr(tmp_path, "contrastive_img_emb").files
  read = []
  getitem = h5py.Dataset.__getitem__

  def counted(dataset, index, **options):
    if isinstance(index, slice):
      read.append((int(index.start), int(index.stop)))
    return getitem(dataset, index, **options)

  monkeypatch.setattr(h5py.Dataset, "__getitem__", counted)
  wanted = stems[[1, 6, 7]]
  size = {"block_bytes": 2 * 512, "max_bytes": 2 * 512}
  blocks = list(elixr_h5.batches(file, wanted, **size))
  assert read == [(1, 2), (6, 8)]
  assert np.array_equal(np.concatenate([stems for stems, _ in blocks]), wanted)
  np.testing.assert_array_equal(
    np.concatenate([rows for _, rows in blocks]), values[[1, 6, 7]]
  )
  rows = np.concatenate([rows for _, rows in elixr_h5.batches(file, None, **size)])
  np.testing.assert_array_equal(rows, values)


def test_h5_names_file_and_key_of_a_wrong_shape(tmp_path):
  ids = stems_of(2).astype("S")
  path = write_h5(
    tmp_path / "elixrc/elixrc_1.h5",
    Image__Index=ids,
    Embeddings=values_of("img_emb", 2),
  )
  with pytest.raises(errors.InputError) as caught:
    elixr.find_elixr(tmp_path, "elixrc")
  for part in (str(path), "'Embeddings'", "[32, 768]", "[8, 8, 1376]", "fix:"):
    assert part in str(caught.value)
  assert "\n" not in str(caught.value)
  write_h5(tmp_path / "elixrb/x.h5", image_ids=ids, embeddings=np.ones((2, 5, 5)))
  with pytest.raises(errors.InputError, match=r"x\.h5: 'embeddings' .*\[5, 5\]"):
    elixr.find_elixr(tmp_path, "img_emb")
  write_h5(
    tmp_path / "elixrb/x.h5", image_ids=ids, img_emb=np.ones((2, 32, 768), np.int32)
  )
  with pytest.raises(errors.InputError, match=r"int32; expected .* floating point"):
    elixr.find_elixr(tmp_path, "img_emb")


def test_h5_lists_keys_for_an_unknown_key(tmp_path):
  write_h5(
    tmp_path / "elixrc/a.h5", features=np.ones((2, 3)), Image__Index=np.ones(2, "S3")
  )
  with pytest.raises(
    errors.InputError, match=r"only the keys Image Index, features; expected one of .*"
  ):
    elixr.find_elixr(tmp_path, "elixrc")


def test_h5_refuses_other_numbers_of_ids_and_rows(tmp_path):
  write_h5(
    tmp_path / "elixrb/txt_emb/txt_emb_1.h5",
    Image__Index=stems_of(2).astype("S"),
    txt_emb=values_of("txt_emb", 3),
  )
  with pytest.raises(errors.InputError, match="3 rows in 'txt_emb' but 2 ids"):
    elixr.find_elixr(tmp_path, "txt_emb")


def test_h5_refuses_ids_that_are_no_texts(tmp_path):
  values = values_of("elixrc", 2)
  write_h5(tmp_path / "elixrc/a.h5", embeddings=values, image_ids=np.array([1, 2]))
  files = elixr.find_elixr(tmp_path, "elixrc")
  with pytest.raises(errors.InputError, match=r"a\.h5: 'image_ids' has 1 as an id"):
    next(files.batches())


@pytest.mark.parametrize("damage", ["cut", "text", "empty"])
def test_h5_names_damaged_files(tmp_path, damage):
  path = write_h5(
    tmp_path / "elixrb/img_emb/img_emb_1.h5",
    Image__Index=stems_of(4).astype("S"),
    img_emb=values_of("img_emb", 4),
  )
  content = path.read_bytes()
  path.write_bytes(
    {"cut": content[: len(content) // 2], "text": b"<html>404", "empty": b""}[damage]
  )
  with pytest.raises(errors.InputError, match=r"img_emb_1\.h5 cannot be read as HDF5"):
    elixr.find_elixr(tmp_path, "img_emb")
  assert elixr.find_elixr(tmp_path, "elixrc") is None


def test_h5_reports_damaged_data_while_reading(tmp_path):
  path = write_h5(
    tmp_path / "elixrb/img_emb/img_emb_1.h5",
    Image__Index=stems_of(4).astype("S"),
    img_emb=values_of("img_emb", 4),
  )
  content = bytearray(path.read_bytes())
  content[len(content) // 2 : len(content) // 2 + 3000] = bytes(3000)
  path.write_bytes(content)
  files = elixr.find_elixr(tmp_path, "img_emb")
  with pytest.raises(errors.InputError, match=r"img_emb_1\.h5 cannot be read as HDF5"):
    read_all(files)


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_h5_names_rows_that_are_not_finite(tmp_path, number):
  values = values_of("img_emb", 4)
  values[2, 5, 7] = number
  write_h5(
    tmp_path / "elixrb/img_emb/img_emb_1.h5",
    Image__Index=stems_of(4).astype("S"),
    img_emb=values,
  )
  files = elixr.find_elixr(tmp_path, "img_emb")
  with pytest.raises(
    errors.InputError, match=r"img_emb_1\.h5 .* 1 rows .*00000002_002"
  ):
    read_all(files)


def test_h5_refuses_heaps_in_which_hdf5_would_loop(tmp_path):
  path = write_h5(
    tmp_path / "elixrb/img_emb/img_emb_1.h5",
    Image__Index=stems_of(1).astype("S"),
    img_emb=values_of("img_emb", 1),
  )
  with h5py.File(path, "r+") as file:
    file.attrs["encoder"] = "of a test"
  assert elixr.find_elixr(tmp_path, "img_emb").encoder == "of a test"
  content = bytearray(path.read_bytes())
  # The heap's one text takes 16 + 16 bytes after its header; then comes the free space.
  free = content.index(b"GCOL") + 16 + 32
  assert int.from_bytes(content[free : free + 2], "little") == 0
  content[free + 8 : free + 16] = bytes(8)
  path.write_bytes(content)
  with pytest.raises(errors.InputError, match=r"img_emb_1\.h5 cannot .* damaged heap"):
    elixr.find_elixr(tmp_path, "img_emb")


def _external_link(file, other):
  file["embeddings"] = h5py.ExternalLink(str(other), "embeddings")


def _soft_link(file, other):
  file["there"] = h5py.ExternalLink(str(other), "/")
  file["embeddings"] = h5py.SoftLink("/there/embeddings")


def _external_storage(file, other):
  shape = (2, 32, 128)
  external = [(str(other), 0, h5py.h5f.UNLIMITED)]
  file.create_dataset("embeddings", shape, "f4", external=external)


def _virtual(file, other):
  layout = h5py.VirtualLayout((2, 32, 128), "f4")
  layout[:] = h5py.VirtualSource(str(other), "embeddings", (2, 32, 128))
  file.create_virtual_dataset("embeddings", layout)


@pytest.mark.parametrize(
  "place", [_external_link, _soft_link, _external_storage, _virtual]
)
def test_h5_refuses_data_of_other_files(tmp_path, place):
  other = write_h5(tmp_path / "private.hdf", embeddings=np.ones((2, 32, 128), "f4"))
  path = write_h5(tmp_path / "elixrb/x.h5", image_ids=stems_of(2).astype("S"))
  with h5py.File(path, "r+") as file:
    place(file, other)
  with pytest.raises(errors.InputError, match=r"embeddings' is (a link|data of other)"):
    elixr.find_elixr(tmp_path, "all_contrastive_img_emb")


def test_h5_refuses_more_rows_than_any_corpus_has(tmp_path):
  path = write_h5(tmp_path / "elixrb/x.h5", image_ids=stems_of(2).astype("S"))
  with h5py.File(path, "r+") as file:
    # Nothing is stored: rows that were never written are zeros.
    file.create_dataset("embeddings", (10**9, 32, 128), "f4", chunks=(1, 32, 128))
  with pytest.raises(errors.InputError, match=r"1,000,000,000 rows; expected at most"):
    elixr.find_elixr(tmp_path, "all_contrastive_img_emb")
