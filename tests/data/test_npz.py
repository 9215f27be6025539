"""`data/npz.py`: sizes that a file states are checked before they are allocated."""

import io
import zipfile

import numpy as np
import pytest

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.data import npz


def write(path, header: dict[str, object], content: bytes) -> None:
  file = io.BytesIO()
  np.lib.format.write_array_header_1_0(file, header)
  with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as entries:
    entries.writestr("x.npy", file.getvalue() + content)


def read(path) -> np.ndarray:
  with npz.open_npz(path) as entries:
    return npz.read_entry(path, entries, "x")


@pytest.mark.parametrize(
  "array",
  [np.arange(6, dtype="<f2").reshape(2, 3), np.asfortranarray(np.eye(3)), np.array(7)],
)
def test_read_entry_reads_what_numpy_writes(tmp_path, array):
  np.savez(tmp_path / "a.npz", x=array)
  result = read(tmp_path / "a.npz")
  np.testing.assert_array_equal(result, array)
  assert result.dtype == array.dtype


@pytest.mark.parametrize(
  ("descr", "shape", "content", "message"),
  [
    ("<f4", (10**12,), b"\0" * 99, "it has 4,000,000 MB"),
    ("<f4", (-3,), b"\0" * 99, "it has -0 MB"),
    ("<f4", (4,), b"\0" * 12, r"not the 16 bytes of the shape \(4,\)"),
    ("<f4", (2,), b"\0" * 10**6, r"not the 8 bytes of the shape \(2,\)"),
    ("|O", (1,), b"\x80\x04N.", "would have to be unpickled"),
  ],
)
def test_read_entry_refuses_from_the_header(tmp_path, descr, shape, content, message):
  header = {"descr": descr, "fortran_order": False, "shape": shape}
  write(tmp_path / "a.npz", header, content)
  with pytest.raises(errors.InputError, match=rf"a\.npz: 'x' cannot .*{message}"):
    read(tmp_path / "a.npz")


def test_open_npz_names_other_files(tmp_path):
  for content in (b"", b"PK\x05\x06" + b"\0" * 18 + b"more", b"a" * 100):
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(errors.InputError, match=r"a\.npz"):
      read(tmp_path / "a.npz")
