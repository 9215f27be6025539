"""Form F: rows by name out of npz files, never unpickled."""

import numpy as np
import pytest

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.encoders.elixr.files import reader as elixr
from tests.encoders.elixr.files.made_files import read_all, same, stems_of, values_of


def test_npz_files_of_form_f_are_read(tmp_path):
  kind = "all_contrastive_img_emb"
  stems, values = stems_of(5), values_of(kind, 5)
  (tmp_path / "elixrb").mkdir()
  path = tmp_path / "elixrb/precomputed_image_embeddings.npz"
  np.savez(path, **{s: v.ravel() for s, v in zip(stems, values, strict=True)})
  texts = {"small pneumothorax": np.ones(128, np.float32)}
  np.savez(tmp_path / "elixrb/precomputed_text_embeddings.npz", **texts)
  files = elixr.find_elixr(tmp_path, kind)
  assert (files.form, files.num_rows, len(files.files)) == ("F", 5, 1)
  assert same(read_all(files), stems, values)
  assert same(read_all(files, stems[3:]), stems[3:], values[3:])
  assert elixr.find_elixr(tmp_path, "contrastive_txt_emb") is None


def test_npz_files_are_never_unpickled(tmp_path):
  (tmp_path / "elixrb").mkdir()
  path = tmp_path / "elixrb/embeddings.npz"
  np.savez(path, **{"00000001_000": np.array([{"a": 1}], dtype=object)})
  with pytest.raises(errors.InputError, match="without pickles"):
    elixr.find_elixr(tmp_path, "all_contrastive_img_emb")
  whole = tmp_path / "whole.npz"
  np.savez(whole, **{"00000001_000": np.ones(4096, np.float32)})
  path.write_bytes(whole.read_bytes()[:9000])
  with pytest.raises(errors.InputError, match=r"embeddings\.npz cannot be read"):
    elixr.find_elixr(tmp_path, "all_contrastive_img_emb")
  np.savez(path, **{"00000001_000": np.ones(768, np.float32)})
  with pytest.raises(errors.InputError, match=r"\[768\] float32; expected 4096"):
    elixr.find_elixr(tmp_path, "all_contrastive_img_emb")
