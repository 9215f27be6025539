"""Any whole folder of a CLIP loads, and what is not whole is reported by its name."""

import json
import pathlib
import shutil

import huggingface_hub
import jax
import numpy as np
import pytest
from safetensors import numpy as safetensors_numpy

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.encoders.clip import files as clip_files
from cxr_diffusion_jax.encoders.clip import model as clip_model

TORCH_CLIP = pathlib.Path(__file__).parent / "torch_clip"


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
  """A copy to change."""
  return pathlib.Path(shutil.copytree(TORCH_CLIP, tmp_path / "clip"))


def test_load_reads_half_precision_shards_with_old_buffers(folder):
  arrays = safetensors_numpy.load_file(folder / "model.safetensors")
  arrays = {name: array.astype(np.float16) for name, array in arrays.items()}
  arrays["text_model.embeddings.position_ids"] = np.arange(16)[None]
  (folder / "model.safetensors").unlink()
  names = sorted(arrays)
  shards = {"model-1.safetensors": names[:20], "model-2.safetensors": names[20:]}
  for file, keys in shards.items():
    safetensors_numpy.save_file({key: arrays[key] for key in keys}, folder / file)
  weight_map = {key: file for file, keys in shards.items() for key in keys}
  index = json.dumps({"weight_map": weight_map})
  (folder / "model.safetensors.index.json").write_text(index, encoding="utf-8")
  loaded, model = clip_model.load(folder), clip_model.load(TORCH_CLIP)
  for leaf, whole in zip(
    jax.tree.leaves(loaded.params), jax.tree.leaves(model.params), strict=True
  ):
    assert leaf.dtype == np.float32
    np.testing.assert_allclose(leaf, whole, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
  ("change", "reported"),
  [
    (lambda a: a.pop("logit_scale"), "1 missing: logit_scale"),
    (
      lambda a: a.update({"visual_projection.weight": np.zeros((3, 16), "f4")}),
      "visual_projection.weight [3, 16] for [8, 16]",
    ),
    (
      lambda a: a.update({"text_model.extra.weight": np.zeros(2, "f4")}),
      "1 unknown: text_model.extra.weight",
    ),
  ],
)
def test_load_reports_weights_that_do_not_fit(folder, change, reported):
  arrays = safetensors_numpy.load_file(folder / "model.safetensors")
  change(arrays)
  safetensors_numpy.save_file(arrays, folder / "model.safetensors")
  with pytest.raises(errors.InputError) as caught:
    clip_model.load(folder)
  assert reported in str(caught.value)


def test_load_reports_truncated_weights(folder):
  path = folder / "model.safetensors"
  path.write_bytes(path.read_bytes()[:50_000])
  with pytest.raises(
    errors.InputError, match=r"model\.safetensors is absent or cannot"
  ):
    clip_model.load(folder)


def test_load_reports_truncated_msgpack(folder):
  (folder / "model.safetensors").unlink()
  (folder / "flax_model.msgpack").write_bytes(b"\x81\xa1a")
  with pytest.raises(errors.InputError, match=r"flax_model\.msgpack is absent or"):
    clip_model.load(folder)


def test_load_reports_a_folder_without_weights_or_config(folder):
  (folder / "model.safetensors").unlink()
  with pytest.raises(errors.InputError, match="no weights in"):
    clip_model.load(folder)
  (folder / "config.json").unlink()
  with pytest.raises(errors.InputError, match="no CLIP in"):
    clip_model.load(folder)


@pytest.mark.parametrize(
  ("files", "reported"),
  [
    (("vocab.json", "tokenizer_config.json"), "no tokenizer in"),
    (("merges.txt",), "no tokenizer in"),
    (("preprocessor_config.json",), "no preprocessor_config.json in"),
  ],
)
def test_load_reports_a_folder_without_a_tokenizer(folder, files, reported):
  for file in files:
    (folder / file).unlink()
  with pytest.raises(errors.InputError, match=reported):
    clip_model.load(folder)


@pytest.mark.parametrize(
  "file",
  ["config.json", "preprocessor_config.json", "tokenizer_config.json", "vocab.json"],
)
@pytest.mark.parametrize("text", ['{"half": ', "[1]"])
def test_load_names_damaged_json(folder, file, text):
  (folder / file).write_text(text, encoding="utf-8")
  with pytest.raises(errors.InputError, match=rf"{file} is absent or cannot be read"):
    clip_model.load(folder)


def test_load_ignores_other_files(folder):
  (folder / "notes.json").write_text("[1]", encoding="utf-8")
  assert clip_model.load(folder).max_tokens == 16


def test_load_reports_another_kind_of_model(folder):
  path = folder / "config.json"
  config = json.loads(path.read_text(encoding="utf-8"))
  path.write_text(json.dumps(config["text_config"]), encoding="utf-8")
  with pytest.raises(errors.InputError, match="model of type 'clip_text_model'"):
    clip_model.load(folder)


def test_resolve_downloads_one_form_of_weights(monkeypatch):
  asked = {}

  def download(name, allow_patterns):
    asked[name] = allow_patterns
    return str(TORCH_CLIP)

  files = ["config.json", "flax_model.msgpack", "model.safetensors"]
  monkeypatch.setattr(huggingface_hub, "list_repo_files", lambda name: files)
  monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
  assert clip_files.resolve("someone/clip") == TORCH_CLIP
  assert asked == {"someone/clip": ["*.json", "merges.txt", "model.safetensors"]}


def test_resolve_reports_an_unreachable_hub_unless_cached(monkeypatch):
  def fail(name):
    raise ConnectionError("no network")

  monkeypatch.setattr(huggingface_hub, "list_repo_files", fail)
  cache = {"someone/clip": str(TORCH_CLIP / "config.json")}
  monkeypatch.setattr(
    huggingface_hub, "try_to_load_from_cache", lambda name, file: cache.get(name)
  )
  assert clip_files.resolve("someone/clip") == TORCH_CLIP
  with pytest.raises(errors.InputError, match="'someone/else' is no folder and could"):
    clip_files.resolve("someone/else")


@pytest.mark.parametrize(
  "absent", ["model.safetensors", "vocab.json", "preprocessor_config.json"]
)
def test_resolve_completes_a_partial_copy(folder, monkeypatch, absent):
  config = str(folder / "config.json")
  monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: config)
  # As a cache is whose network is gone: whole, it is used without one.
  assert clip_files.resolve("someone/clip") == folder
  (folder / absent).unlink()
  monkeypatch.setattr(huggingface_hub, "list_repo_files", lambda name: [])
  monkeypatch.setattr(
    huggingface_hub, "snapshot_download", lambda name, allow_patterns: "fetched"
  )
  assert clip_files.resolve("someone/clip") == pathlib.Path("fetched")


def test_resolve_needs_all_shards_of_a_cached_index(folder, monkeypatch):
  config = str(folder / "config.json")
  monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: config)
  monkeypatch.setattr(huggingface_hub, "list_repo_files", lambda name: [])
  monkeypatch.setattr(
    huggingface_hub, "snapshot_download", lambda name, allow_patterns: "fetched"
  )
  (folder / "model.safetensors").rename(folder / "model-1.safetensors")
  index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
  path = folder / "model.safetensors.index.json"
  path.write_text(json.dumps(index), encoding="utf-8")
  assert clip_files.resolve("someone/clip") == pathlib.Path("fetched")
  shutil.copy(folder / "model-1.safetensors", folder / "model-2.safetensors")
  assert clip_files.resolve("someone/clip") == folder
