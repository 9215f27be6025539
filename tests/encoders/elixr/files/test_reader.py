"""Every form of ELIXR file is read, joined on stems; damage is reported in one line."""

import os
import shutil

import numpy as np
import pytest

from cxr_diffusion_jax import checked_files, errors
from cxr_diffusion_jax.encoders.elixr.files import file as elixr_file
from cxr_diffusion_jax.encoders.elixr.files import reader as elixr
from tests.encoders.elixr.files.made_files import (
  read_all,
  same,
  stems_of,
  values_of,
  write_h5,
)


@pytest.mark.parametrize(
  "identifier",
  [
    b"00000001_000.png",
    b"00000001_000",
    "00000001_000.PNG",
    "b'00000001_000.png'",
    'b"00000001_000"',
    b"b'00000001_000'",
    "/data/nih/images_001/images/00000001_000.png",
    r"C:\nih\00000001_000.png",
    np.bytes_(b"00000001_000.png"),
    np.str_(" 00000001_000.jpeg "),
  ],
)
def test_stem_of_is_equal_for_all_forms_of_id(identifier):
  assert elixr_file.stem_of(identifier) == "00000001_000"


@pytest.mark.parametrize("key", ["Embeddings", "Embedding"])
def test_find_elixr_reads_form_a_in_shards(tmp_path, key):
  stems, values = stems_of(9), values_of("elixrc", 9)
  names = np.char.add(stems, ".png").astype("S")
  for shard, part in enumerate(np.array_split(np.arange(9), 3)):
    write_h5(
      tmp_path / f"elixrc/elixrc_{shard + 9}.h5",
      Image__Index=names[part],
      **{key: values[part][:, None]},
    )
  files = elixr.find_elixr(tmp_path, "elixrc")
  assert (files.form, files.standin, files.num_rows) == ("A", False, 9)
  assert [file.path.stem for file in files.files] == [
    "elixrc_9",
    "elixrc_10",
    "elixrc_11",
  ]
  assert "elixr-c-v2-pooled" in files.encoder
  assert same(read_all(files), stems, values)


def test_find_elixr_reads_form_a_with_several_kinds_in_a_file(tmp_path):
  stems = stems_of(5)
  kinds = [kind for kind in elixr.SHAPES if "contrastive" in kind]
  arrays = {kind: values_of(kind, 5, seed) for seed, kind in enumerate(kinds)}
  write_h5(
    tmp_path / "elixrb/contrastive/contrastive_1.h5",
    Image__Index=np.char.add(stems, ".png").astype("S"),
    **arrays,
  )
  text = values_of("txt_emb", 5, 7)
  write_h5(
    tmp_path / "elixrb/txt_emb/txt_emb_1.h5",
    Image__Index=stems.astype("S"),
    txt_emb=text,
  )
  for kind in kinds:
    assert same(read_all(elixr.find_elixr(tmp_path, kind)), stems, arrays[kind])
  assert same(read_all(elixr.find_elixr(tmp_path, "txt_emb")), stems, text)
  assert elixr.find_elixr(tmp_path, "img_emb") is None
  assert elixr.find_elixr(tmp_path, "elixrc") is None


@pytest.mark.parametrize("row", [(32, 128), (1, 32, 128), (128,)])
def test_find_elixr_reads_form_b(tmp_path, row):
  kind = "contrastive_img_emb" if row == (128,) else "all_contrastive_img_emb"
  stems, values = stems_of(4), values_of(kind, 4)
  ids = [f"b'{stem}'" for stem in stems]
  write_h5(
    tmp_path / "elixrb/images_001.h5",
    image_ids=np.array(ids, dtype=object),
    embeddings=values.reshape(-1, *row),
  )
  files = elixr.find_elixr(tmp_path, kind)
  assert files.form == "B"
  assert same(read_all(files), stems, values)
  assert elixr.find_elixr(tmp_path, "img_emb") is None
  assert elixr.find_elixr(tmp_path, "contrastive_txt_emb") is None


def test_find_elixr_names_form_b_vectors_of_text(tmp_path):
  values = values_of("contrastive_txt_emb", 3)
  ids = stems_of(3).astype("S")
  write_h5(tmp_path / "elixrb/txt_001.h5", image_ids=ids, embeddings=values)
  assert elixr.find_elixr(tmp_path, "contrastive_img_emb") is None
  files = elixr.find_elixr(tmp_path, "contrastive_txt_emb")
  assert same(read_all(files), stems_of(3), values)


def test_find_elixr_reads_form_c_with_ids_in_parquet(tmp_path):
  pa = pytest.importorskip("pyarrow")
  parquet = pytest.importorskip("pyarrow.parquet")
  kind = "all_contrastive_img_emb"
  stems, values = stems_of(6), values_of(kind, 6)
  path = write_h5(tmp_path / "elixrb/train_v2_b.h5", embeddings=values[:, None])
  table = pa.table({"Image Index": np.char.add(stems, ".png"), "Patient ID": range(6)})
  parquet.write_table(table, tmp_path / "elixrb/train_v2.parquet")
  parquet.write_table(table.slice(2), tmp_path / "elixrb/train.parquet")
  files = elixr.find_elixr(tmp_path, kind)
  assert files.form == "C"
  assert same(read_all(files), stems, values)

  parquet.write_table(table.slice(2), tmp_path / "elixrb/train_v2.parquet")
  with pytest.raises(errors.InputError, match=r"6 rows .* but 4 ids .*train_v2\.parq"):
    elixr.find_elixr(tmp_path, kind)
  path.with_name("train_v2.parquet").write_bytes(b"PAR1 cut")
  with pytest.raises(errors.InputError, match="cannot be read as parquet"):
    elixr.find_elixr(tmp_path, kind)
  path.with_name("train_v2.parquet").unlink()
  path.with_name("train.parquet").unlink()
  with pytest.raises(errors.InputError, match=r"train_v2_b\.h5 has no ids"):
    elixr.find_elixr(tmp_path, kind)


def test_find_elixr_reads_form_d_in_chunks(tmp_path):
  stems, values = stems_of(8), values_of("elixrc", 8)
  for chunk in range(2):
    part = slice(4 * chunk, 4 * chunk + 4)
    write_h5(
      tmp_path / f"elixrc/elixrc_embedding_chunk_{chunk}.h5",
      elixrc_embedding=values[part],
      image_ids=stems[part].astype("S"),
    )
  files = elixr.find_elixr(tmp_path, "elixrc")
  assert files.form == "D"
  assert same(read_all(files), stems, values)


def test_find_elixr_reads_form_e_in_the_root(tmp_path):
  ids = np.char.add(stems_of(4), ".png").astype("S")
  general, qformer = values_of("img_emb", 4), values_of("all_contrastive_img_emb", 4)
  write_h5(
    tmp_path / "elixr_general_embeddings.h5", Image__Index=ids, embeddings=general
  )
  write_h5(
    tmp_path / "elixr_qformer_embeddings.h5", Image__Index=ids, embeddings=qformer
  )
  files = elixr.find_elixr(tmp_path, "img_emb")
  assert files.form == "E"
  assert same(read_all(files), stems_of(4), general)
  files = elixr.find_elixr(tmp_path, "all_contrastive_img_emb")
  assert same(read_all(files), stems_of(4), qformer)

  write_h5(
    tmp_path / "elixr_qformer_embeddings.h5", Image__Index=ids, embeddings=general
  )
  with pytest.raises(errors.InputError, match=r"two sources of img_emb: .*general.*qf"):
    elixr.find_elixr(tmp_path, "img_emb")


def test_fingerprint_follows_the_content(tmp_path):
  root, cache = tmp_path / "tree", tmp_path / "hashes.json"
  path = write_h5(
    root / "elixrb/img_emb/img_emb_1.h5",
    Image__Index=stems_of(2).astype("S"),
    img_emb=values_of("img_emb", 2),
  )

  def fingerprint(root, cache=cache):
    return elixr.find_elixr(root, "img_emb").fingerprint(cache)

  before = fingerprint(root)
  assert fingerprint(root) == fingerprint(root, None) == before
  moved = shutil.copytree(root, tmp_path / "moved")
  os.utime(moved / path.relative_to(root), (1, 1))
  assert fingerprint(moved) == before
  shutil.copy(path, path.with_name("img_emb_2.h5"))
  more = fingerprint(root)
  path.with_name("img_emb_2.h5").unlink()
  write_h5(
    path, Image__Index=stems_of(2).astype("S"), img_emb=values_of("img_emb", 2, 1)
  )
  assert len({before, more, fingerprint(root)}) == 3
  # A file that has not changed is not read again.
  kept = checked_files.read_json(cache)
  kept[str(path.resolve())]["sha256"] = "known"
  checked_files.write_json(cache, kept)
  assert fingerprint(root) != fingerprint(root, None)
  # A damaged hash would be of other files.
  cache.write_text(cache.read_text().replace("known", "knowm"))
  with pytest.raises(errors.InputError, match=r"hashes\.json .*not as it was written"):
    fingerprint(root)


def test_find_elixr_refuses_unknown_kinds_and_missing_trees(tmp_path):
  with pytest.raises(ValueError, match="unknown kind 'elixr'; known: all_contr"):
    elixr.find_elixr(tmp_path, "elixr")
  assert elixr.find_elixr(tmp_path / "absent", "elixrc") is None


def test_find_elixr_reads_the_encoder_from_datasets_json(tmp_path):
  write_h5(
    tmp_path / "elixrb/img_emb/img_emb_1.h5",
    Image__Index=stems_of(2).astype("S"),
    img_emb=values_of("img_emb", 2),
  )
  about = tmp_path / "datasets.json"
  about.write_text('{"standin": true, "encoder": "toy"}', encoding="utf-8")
  files = elixr.find_elixr(tmp_path, "img_emb")
  assert (files.standin, files.encoder) == (True, "toy")
  about.write_text("{", encoding="utf-8")
  with pytest.raises(errors.InputError, match=r"datasets\.json is not readable JSON"):
    elixr.find_elixr(tmp_path, "img_emb")
