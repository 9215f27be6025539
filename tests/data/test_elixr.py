"""Every form of ELIXR file is read, joined on stems; damage is told in one line."""

import json
import pathlib
import shutil

import h5py
import numpy as np
import pytest

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.data import elixr, elixr_file, elixr_npz, elixr_writer


def stems_of(num: int, first: int = 0) -> np.ndarray:
  return np.array([f"{i:08d}_{i % 7:03d}" for i in range(first, first + num)])


def values_of(kind: str, num: int, seed: int = 0) -> np.ndarray:
  rng = np.random.default_rng(seed)
  return rng.standard_normal((num, *elixr.SHAPES[kind]), dtype=np.float32)


def write_h5(path: pathlib.Path, **datasets) -> pathlib.Path:
  path.parent.mkdir(parents=True, exist_ok=True)
  with h5py.File(path, "w") as file:
    for key, value in datasets.items():
      compression = "gzip" if np.ndim(value) > 1 else None
      file.create_dataset(
        key.replace("__", " "), data=value, compression=compression, compression_opts=1
      ) if compression else file.create_dataset(key.replace("__", " "), data=value)
  return path


def read_all(files: elixr.ElixrFiles, wanted=None) -> dict[str, np.ndarray]:
  rows = {}
  for stems, values in files.batches(wanted):
    assert values.shape == (len(stems), *files.shape)
    rows.update(zip(stems.tolist(), values, strict=True))
  return rows


def same(rows: dict[str, np.ndarray], stems, values) -> bool:
  return sorted(rows) == sorted(stems) and all(
    np.array_equal(rows[stem], value)
    for stem, value in zip(stems.tolist(), values, strict=True)
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
def test_every_form_of_id_has_the_same_stem(identifier):
  assert elixr_file.stem_of(identifier) == "00000001_000"


@pytest.mark.parametrize("key", ["Embeddings", "Embedding"])
def test_form_a_elixrc_in_shards(tmp_path, key):
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


def test_form_a_kinds_of_one_file(tmp_path):
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
def test_form_b(tmp_path, row):
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


def test_form_b_vector_of_a_text_is_told_by_its_name(tmp_path):
  values = values_of("contrastive_txt_emb", 3)
  ids = stems_of(3).astype("S")
  write_h5(tmp_path / "elixrb/txt_001.h5", image_ids=ids, embeddings=values)
  assert elixr.find_elixr(tmp_path, "contrastive_img_emb") is None
  files = elixr.find_elixr(tmp_path, "contrastive_txt_emb")
  assert same(read_all(files), stems_of(3), values)


def test_form_c_ids_from_parquet(tmp_path):
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


def test_form_d_chunks(tmp_path):
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


def test_form_e_in_the_root(tmp_path):
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


def test_form_f(tmp_path):
  kind = "all_contrastive_img_emb"
  stems, values = stems_of(5), values_of(kind, 5)
  (tmp_path / "elixrb").mkdir()
  path = tmp_path / "elixrb/precomputed_image_embeddings.npz"
  np.savez(path, **{s: v.ravel() for s, v in zip(stems, values, strict=True)})
  texts = {"small pneumothorax": np.ones(128, np.float32)}
  text_path = tmp_path / "elixrb/precomputed_text_embeddings.npz"
  np.savez(text_path, **texts)
  files = elixr.find_elixr(tmp_path, kind)
  assert (files.form, files.num_rows, len(files.files)) == ("F", 5, 1)
  assert same(read_all(files), stems, values)
  assert same(read_all(files, stems[3:]), stems[3:], values[3:])
  read = elixr_npz.read_text_embeddings(text_path)
  assert list(read) == ["small pneumothorax"]
  assert np.array_equal(read["small pneumothorax"], np.ones(128))
  assert elixr.find_elixr(tmp_path, "contrastive_txt_emb") is None
  with pytest.raises(errors.InputError, match=r"'00000000_000' has the shape \[4096\]"):
    elixr_npz.read_text_embeddings(path)


def test_form_f_is_never_unpickled(tmp_path):
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


def test_blocks_without_wanted_rows_are_not_read(tmp_path, monkeypatch):
  stems, values = stems_of(12), values_of("contrastive_img_emb", 12)
  write_h5(
    tmp_path / "elixrb/contrastive/c_1.h5",
    Image__Index=stems.astype("S"),
    contrastive_img_emb=values,
  )
  files = elixr.find_elixr(tmp_path, "contrastive_img_emb")
  monkeypatch.setattr(elixr.elixr_h5, "_BLOCK_BYTES", 2 * 512)
  monkeypatch.setattr(elixr.elixr_h5, "_MAX_BYTES", 2 * 512)
  read = []
  getitem = h5py.Dataset.__getitem__

  def counted(dataset, index, **options):
    if isinstance(index, slice):
      read.append((int(index.start), int(index.stop)))
    return getitem(dataset, index, **options)

  monkeypatch.setattr(h5py.Dataset, "__getitem__", counted)
  wanted = stems[[1, 6, 7]]
  assert same(read_all(files, wanted), wanted, values[[1, 6, 7]])
  assert read == [(1, 2), (6, 8)]
  assert same(read_all(files), stems, values)


def test_fingerprint_follows_the_files(tmp_path):
  path = write_h5(
    tmp_path / "elixrb/img_emb/img_emb_1.h5",
    Image__Index=stems_of(2).astype("S"),
    img_emb=values_of("img_emb", 2),
  )
  before = elixr.find_elixr(tmp_path, "img_emb").fingerprint
  assert elixr.find_elixr(tmp_path, "img_emb").fingerprint == before
  shutil.copy(path, path.with_name("img_emb_2.h5"))
  more = elixr.find_elixr(tmp_path, "img_emb").fingerprint
  path.with_name("img_emb_2.h5").unlink()
  write_h5(
    path, Image__Index=stems_of(2).astype("S"), img_emb=values_of("img_emb", 2, 1)
  )
  assert len({before, more, elixr.find_elixr(tmp_path, "img_emb").fingerprint}) == 3


def test_wrong_shape_names_file_key_got_and_expected(tmp_path):
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


def test_unknown_key_lists_the_keys(tmp_path):
  write_h5(
    tmp_path / "elixrc/a.h5", features=np.ones((2, 3)), Image__Index=np.ones(2, "S3")
  )
  with pytest.raises(
    errors.InputError, match=r"only the keys Image Index, features; expected one of .*"
  ):
    elixr.find_elixr(tmp_path, "elixrc")


def test_number_of_ids_must_be_the_number_of_rows(tmp_path):
  write_h5(
    tmp_path / "elixrb/txt_emb/txt_emb_1.h5",
    Image__Index=stems_of(2).astype("S"),
    txt_emb=values_of("txt_emb", 3),
  )
  with pytest.raises(errors.InputError, match="3 rows in 'txt_emb' but 2 ids"):
    elixr.find_elixr(tmp_path, "txt_emb")


@pytest.mark.parametrize("damage", ["cut", "text", "empty"])
def test_damaged_h5_is_named(tmp_path, damage):
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


def test_damage_inside_the_data_is_told_while_reading(tmp_path):
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
def test_rows_that_are_not_finite_are_named(tmp_path, number):
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


def test_unknown_kind_and_missing_tree(tmp_path):
  with pytest.raises(ValueError, match="unknown kind 'elixr'; known: all_contr"):
    elixr.find_elixr(tmp_path, "elixr")
  assert elixr.find_elixr(tmp_path / "absent", "elixrc") is None


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


def test_datasets_json_speaks_for_files_that_do_not(tmp_path):
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
  with pytest.raises(errors.InputError, match=r"datasets\.json is not JSON"):
    elixr.find_elixr(tmp_path, "img_emb")


def test_writer_leaves_nothing_behind_on_failure(tmp_path):
  stems, arrays = stems_of(5), {"img_emb": values_of("img_emb", 5)}
  with pytest.raises(ValueError, match="5 rows came, 6 were announced"):
    write_standin(tmp_path, stems, arrays, num_rows=6)
  with pytest.raises(ValueError, match="more than the announced 4 rows"):
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
