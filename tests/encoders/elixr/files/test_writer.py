"""Form A as we write it: what the reader reads, stand-ins marked, real data safe."""

import json

import h5py
import numpy as np
import pytest

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.encoders.elixr.files import reader as elixr
from cxr_diffusion_jax.encoders.elixr.files import writer as elixr_writer
from tests.encoders.elixr.files.made_files import (
  read_all,
  same,
  stems_of,
  values_of,
  write_h5,
)


def form_a_batches(stems, arrays, step):
  for start in range(0, len(stems), step):
    part = slice(start, start + step)
    yield stems[part], {kind: values[part] for kind, values in arrays.items()}


def write_standin(root, stems, arrays, **changes):
  arguments = {
    "kinds": list(arrays),
    "num_rows": len(stems),
    "batches": form_a_batches(stems, arrays, 4),
    "encoder": "stand-in CLIP",
    "standin": True,
  }
  elixr_writer.write_form_a(root, **{**arguments, **changes})


@pytest.mark.parametrize("num", [3, 14])
def test_form_a_writer_and_reader_agree(tmp_path, num):
  stems = stems_of(num)
  arrays = {kind: values_of(kind, num, i) for i, kind in enumerate(elixr.SHAPES)}
  told = []
  write_standin(tmp_path, stems, arrays, progress=lambda *state: told.append(state))
  assert told[-1] == ("ELIXR files", num, num)
  for kind, values in arrays.items():
    files = elixr.find_elixr(tmp_path, kind)
    assert (files.form, files.standin, files.encoder) == ("A", True, "stand-in CLIP")
    assert len(files.files) == 12
    assert same(read_all(files), stems, values)
    order = [stem for stems, _ in files.batches() for stem in stems.tolist()]
    assert order == stems.tolist()
  folders = [path.parent for path in tmp_path.rglob("*_12.h5")]
  assert sorted(str(folder.relative_to(tmp_path)) for folder in folders) == [
    "elixrb/contrastive",
    "elixrb/img_emb",
    "elixrb/txt_emb",
    "elixrc",
  ]
  with h5py.File(tmp_path / "elixrc/elixrc_1.h5") as file:
    assert sorted(file) == ["Embeddings", "Image Index"]
    assert file["Embeddings"].shape[1:] == (1, 8, 8, 1376)
    assert file["Image Index"][0] == b"00000000_000.png"
  told = json.loads((tmp_path / "datasets.json").read_text(encoding="utf-8"))
  assert told["standin"] is True
  assert told["encoder"] == "stand-in CLIP"
  assert told["datasets"]["elixrb"]["img_emb"]["features"]["img_emb"] == {
    "dtype": "float32",
    "shape": [32, 768],
  }


def test_writer_leaves_nothing_behind_on_failure(tmp_path):
  stems, arrays = stems_of(5), {"img_emb": values_of("img_emb", 5)}
  with pytest.raises(ValueError, match="got 5 rows, expected 6"):
    write_standin(tmp_path, stems, arrays, num_rows=6)
  with pytest.raises(ValueError, match="got 5 rows, expected 4"):
    write_standin(tmp_path, stems, arrays, num_rows=4)
  arrays["img_emb"][3] = np.nan
  with pytest.raises(errors.InputError, match="00000003_003"):
    write_standin(tmp_path, stems, arrays)
  assert list(tmp_path.iterdir()) == []


def test_writer_replaces_standins_but_never_real_embeddings(tmp_path):
  stems = stems_of(5)
  write_standin(tmp_path, stems, {"img_emb": values_of("img_emb", 5)})
  newer = values_of("img_emb", 5, 1)
  write_standin(tmp_path, stems, {"img_emb": newer})
  assert same(read_all(elixr.find_elixr(tmp_path, "img_emb")), stems, newer)

  real = values_of("img_emb", 5, 2)
  path = write_h5(
    tmp_path / "elixrb/img_emb/img_emb_1.h5",
    Image__Index=stems.astype("S"),
    img_emb=real,
  )
  with pytest.raises(errors.InputError, match=r"img_emb_1\.h5 is in the way"):
    write_standin(tmp_path, stems, {"img_emb": newer})
  assert path.is_file()
  # A real source wins over the stand-ins beside it.
  files = elixr.find_elixr(tmp_path, "img_emb")
  assert (files.standin, files.num_rows) == (False, 5)
  assert same(read_all(files), stems, real)


def test_real_npz_wins_over_standin(tmp_path):
  kind = "all_contrastive_img_emb"
  stems = stems_of(3)
  write_standin(tmp_path, stems, {kind: values_of(kind, 3)})
  real = values_of(kind, 3, 4)
  np.savez(
    tmp_path / "elixrb/embeddings.npz",
    **{s: v.ravel() for s, v in zip(stems, real, strict=True)},
  )
  files = elixr.find_elixr(tmp_path, kind)
  assert (files.form, files.standin) == ("F", False)
  assert same(read_all(files), stems, real)
