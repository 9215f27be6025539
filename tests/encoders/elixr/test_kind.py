"""Files of form A as we write them: the reader reads them, and stand-ins are marked."""

import h5py
import numpy as np

from cxr_diffusion_jax.encoders.elixr.files import reader as elixr
from tests.encoders.elixr.files.made_files import read_all, same, stems_of, values_of
from tests.fixtures.elixr_files import write_elixr


def test_find_elixr_reads_files_of_form_a(tmp_path):
  stems = stems_of(5)
  for i, kind in enumerate(elixr.SHAPES):
    values = values_of(kind, 5, i)
    write_elixr(tmp_path, kind, stems, values, encoder="stand-in CLIP", standin=True)
    files = elixr.find_elixr(tmp_path, kind)
    assert (files.form, files.standin, files.encoder) == ("A", True, "stand-in CLIP")
    assert same(read_all(files), stems, values)
  with h5py.File(tmp_path / "elixrc/elixrc_1.h5") as file:
    assert sorted(file) == ["Embeddings", "Image Index"]
    assert file["Embeddings"].shape == (5, 1, 8, 8, 1376)
    assert file["Image Index"][0] == b"00000000_000.png"


def test_find_elixr_prefers_real_npz_to_standins(tmp_path):
  kind, stems = "all_contrastive_img_emb", stems_of(3)
  values, real = values_of(kind, 3), values_of(kind, 3, 4)
  write_elixr(tmp_path, kind, stems, values, encoder="stand-in CLIP", standin=True)
  np.savez(
    tmp_path / "elixrb/embeddings.npz",
    **{s: v.ravel() for s, v in zip(stems, real, strict=True)},
  )
  files = elixr.find_elixr(tmp_path, kind)
  assert (files.form, files.standin) == ("F", False)
  assert same(read_all(files), stems, real)
