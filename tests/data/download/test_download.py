"""The four downloads, from a local server or at the libraries' boundary; no network."""

import csv
import http.server
import io
import os
import pathlib
import sys
import threading

import numpy as np
from PIL import Image
import pytest

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.data.download import download
from cxr_diffusion_jax.data.sources import base, nih
from cxr_diffusion_jax.data.sources.nih import google_labels, layout, metadata
from cxr_diffusion_jax.encoders.elixr.files import reader as elixr

SUBSET_FINDINGS = (
  *("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Effusion"),
  *("Pneumothorax", "Airspace_Opacity", "Fracture"),
)


def write(path: pathlib.Path, content: bytes) -> pathlib.Path:
  path.write_bytes(content)
  return path


@pytest.fixture
def server(tmp_path_factory):
  """A server of files on this machine: a folder to fill, its address, its requests."""
  folder, requests = tmp_path_factory.mktemp("served"), []

  class Handler(http.server.SimpleHTTPRequestHandler):
    def __init__(self, *arguments):
      super().__init__(*arguments, directory=folder)

    def log_message(self, *arguments):
      requests.append(self.path)

  with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
    thread = threading.Thread(target=running.serve_forever, args=(0.01,))
    thread.start()
    yield folder, f"http://127.0.0.1:{running.server_port}", requests
    running.shutdown()
    thread.join()


def serve(folder: pathlib.Path, files: dict[str, bytes]) -> None:
  for name, content in files.items():
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)


def test_download_refuses_an_unknown_name(tmp_path):
  with pytest.raises(
    errors.InputError,
    match="download 'mimic'; expected one of elixr, google-labels, google-nih",
  ):
    download.download("mimic", tmp_path)
  (tmp_path / "file").write_text("", encoding="utf-8")
  with pytest.raises(errors.InputError, match="cannot be made"):
    download.download("elixr", tmp_path / "file" / "tree")


def test_download_says_where_to_get_corpora_with_accounts(tmp_path):
  for what in ("chexpert", "mimic_cxr", "padchest", "vindr"):
    with pytest.raises(errors.InputError, match=rf"terms at https://.*source={what}"):
      download.download(what, tmp_path)


def test_download_fetches_google_labels(server, tmp_path):
  names = [
    "four_findings_expert_labels/individual_readers.csv",
    "four_findings_expert_labels/test_labels.csv",
    "four_findings_expert_labels/validation_labels.csv",
    "all_findings_expert_labels/test_individual_readers.csv",
    "all_findings_expert_labels/test_labels.csv",
  ]
  folder, url, requests = server
  serve(folder / "labels", {name: name.encode() for name in names})
  for _ in range(2):
    download.download("google-labels", tmp_path, base_url=f"{url}/labels/")
  assert len(requests) == 5
  for name in names:
    assert (tmp_path / "google-labels" / name).read_bytes() == name.encode()
  (folder / "labels" / names[-1]).unlink()
  with pytest.raises(errors.InputError, match=r"HTTP 404 .*with a browser, to .*goog"):
    download.download("google-labels", tmp_path / "b", base_url=f"{url}/labels")


HEADER = (
  "image_id,dicom_file,AIRSPACE_OPACITY,FRACTURE,PNEUMOTHORAX,CONSOLIDATION,EFFUSION,"
  "PULMONARY_EDEMA,ATELECTASIS,CARDIOMEGALY\n"
)
SUBSET_ROWS = (
  "00000013_026,a.dcm,1,0,1.0,,0,1,0,0\n"
  "00000001_000,b.dcm,0.0,,0,0,0,,0,0\n"
  "00000077_001,without_image.dcm,1,1,1,1,1,1,1,1\n"
)


def webp(grey: int) -> bytes:
  content = io.BytesIO()
  Image.new("RGB", (20, 16), (grey,) * 3).save(content, format="WEBP", lossless=True)
  return content.getvalue()


def npz(**arrays) -> bytes:
  content = io.BytesIO()
  np.savez(content, **arrays)
  return content.getvalue()


def subset_files(thumbnails: bytes) -> dict[str, bytes]:
  values = np.random.default_rng(0).standard_normal((2, 4096), np.float32)
  stems = ("00000013_026", "00000001_000")
  return {
    "cxr14_subset_labels.csv": (HEADER + SUBSET_ROWS).encode(),
    "precomputed_text_embeddings.npz": npz(query=np.ones(128, np.float32)),
    "precomputed_image_embeddings.npz": npz(**dict(zip(stems, values, strict=True))),
    "thumbnails_id_to_webp.npz": thumbnails,
  }


def good_thumbnails() -> bytes:
  return npz(
    **{
      "00000013_026": np.frombuffer(webp(60), np.uint8),
      # Google's file may hold byte strings as well.
      "00000001_000": np.array(np.void(webp(200))),
      "00000099_000": np.frombuffer(webp(1), np.uint8),
    }
  )


def test_download_makes_a_tree_of_the_google_subset(server, tmp_path):
  folder, url, requests = server
  serve(folder, subset_files(good_thumbnails()))
  for _ in range(2):
    download.download("google-nih-subset", tmp_path, base_url=url)
  assert len(requests) == 4
  names = sorted(os.listdir(tmp_path / "original"))
  assert names == ["00000001_000.png", "00000013_026.png"]
  with Image.open(tmp_path / "original/00000013_026.png") as image:
    assert (image.mode, image.size, image.getpixel((3, 3))) == ("L", (20, 16), 60)
  with open(tmp_path / "Data_Entry_2017.csv", newline="", encoding="utf-8") as file:
    rows = list(csv.DictReader(file))
  assert [row["Image Index"] for row in rows] == names
  present = ["", "Airspace_Opacity|Edema|Pneumothorax"]
  assert [row["Finding Labels"] for row in rows] == present
  never = "Emphysema|Fibrosis|Hernia|Infiltration|Mass|Nodule|Pleural_Thickening"
  assert [row["Unknown Labels"] for row in rows] == [
    f"Edema|{never}|Pneumonia|Fracture",
    f"Consolidation|{never}|Pneumonia",
  ]
  assert (rows[1]["Patient ID"], rows[1]["Follow-up #"]) == ("13", "26")
  unknown = ("Patient Age", "Patient Gender", "View Position")
  assert {row[name] for row in rows for name in unknown} == {""}
  expert = (tmp_path / "google-labels/cxr14_subset_validation_labels.csv").read_text(
    encoding="utf-8"
  )
  assert expert.splitlines() == [
    "Image Index,Fracture,Pneumothorax,Airspace opacity,Nodule or mass",
    "00000001_000.png,,NO,NO,",
    "00000013_026.png,NO,YES,YES,",
  ]
  tree = layout.find_tree(tmp_path)
  entries = metadata.read_entries(tree.data_entry)
  assert sorted(tree.originals) == entries.id.tolist()
  assert np.isnan(entries.age).all()
  assert entries.sex.tolist() == entries.view.tolist() == [-1, -1]
  expert = google_labels.read_google_labels(tree.google_labels)
  assert expert.test_ids == frozenset()
  assert np.array_equal(
    expert.four_findings["00000013_026"], [0, 1, 1, np.nan], equal_nan=True
  )
  table = base.without_unknown(nih.read_table(tmp_path, image_size=16))
  # NIH's other eight findings are unknown throughout, so they are no labels.
  assert table.vocabulary == nih.read_vocabulary(tmp_path) == SUBSET_FINDINGS
  row = dict(zip(SUBSET_FINDINGS, table.findings[1].tolist(), strict=True))
  assert {name for name, value in row.items() if value == 1} == {*present[1].split("|")}
  assert {name for name, value in row.items() if np.isnan(value)} == {"Consolidation"}
  files = elixr.find_elixr(tmp_path, "all_contrastive_img_emb")
  assert (files.form, files.num_rows) == ("F", 2)


def test_download_never_overwrites_another_tree(server, tmp_path):
  folder, url, _ = server
  serve(folder, subset_files(good_thumbnails()))
  path = write(tmp_path / "Data_Entry_2017_v2020.csv", b"Image Index\n")
  with pytest.raises(errors.InputError, match=r"v2020\.csv is of another dataset"):
    download.download("google-nih-subset", tmp_path, base_url=url)
  assert path.read_bytes() == b"Image Index\n"
  assert not (tmp_path / "original").exists()


def test_download_takes_elixr_from_a_hub_snapshot(tmp_path, monkeypatch):
  hub = pytest.importorskip("huggingface_hub")
  calls = []

  def snapshot_download(repo_id, **options):
    calls.append((repo_id, options))

  monkeypatch.setattr(hub, "snapshot_download", snapshot_download)
  download.download("elixr", tmp_path)
  ((name, options),) = calls
  assert name == "Yasintuncer/nih-cxr14-elixr"
  assert options["allow_patterns"] == ["datasets.json", "elixrc/*", "elixrb/*"]
  assert options["repo_type"] == "dataset"
  assert options["local_dir"] == tmp_path
  # The library finds it where the user's login put it.
  assert "token" not in options

  def refused(repo_id, **options):
    raise hub.errors.LocalTokenNotFoundError("a token is wanted")

  monkeypatch.setattr(hub, "snapshot_download", refused)
  with pytest.raises(errors.InputError, match=r"token is wanted; fix: .*hf auth login"):
    download.download("elixr", tmp_path)


def test_download_links_nih_from_the_kagglehub_cache(tmp_path, monkeypatch):
  kagglehub = pytest.importorskip("kagglehub")
  cache, root = tmp_path / "cache", tmp_path / "root"
  for i in range(1, 13):
    folder = cache / f"images_{i:03d}" / "images"
    folder.mkdir(parents=True)
    write(folder / f"{i:08d}_000.png", b"png")
  write(cache / "Data_Entry_2017.csv", b"entries")
  write(cache / "test_list.txt", b"list")
  calls = []

  def dataset_download(handle, **options):
    calls.append((handle, options))
    return str(cache)

  monkeypatch.setattr(kagglehub, "dataset_download", dataset_download)
  root.mkdir()
  write(root / "test_list.txt", b"mine")
  for _ in range(2):
    download.download("nih", root)
  assert calls == [("nih-chest-xrays/data", {})] * 2
  assert len(list((root / "original").glob("images_*/images/*.png"))) == 12
  assert (root / "Data_Entry_2017.csv").read_bytes() == b"entries"
  assert (root / "test_list.txt").read_bytes() == b"mine"

  def refused(handle):
    raise kagglehub.exceptions.UnauthenticatedError

  monkeypatch.setattr(kagglehub, "dataset_download", refused)
  with pytest.raises(errors.InputError, match=r"fix: .*kagglehub\.login"):
    download.download("nih", root)


@pytest.mark.parametrize(
  ("what", "library"), [("nih", "kagglehub"), ("elixr", "huggingface_hub")]
)
def test_download_names_a_missing_library(tmp_path, monkeypatch, what, library):
  monkeypatch.setitem(sys.modules, library, None)
  with pytest.raises(errors.InputError, match=f"fix: pip install {library}"):
    download.download(what, tmp_path)
