"""Folders are read whole or refused, in any form that diffusers writes them in."""

import json
import os

import numpy as np
import pytest
from safetensors import numpy as safetensors_numpy

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.interop import safetensors_folder

ARRAYS = {
  "a.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
  "b.bias": np.array([0.5], np.float32),
}
WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def written(tmp_path):
  """A folder with one model."""
  safetensors_folder.write(tmp_path / "model", {"_class_name": "Toy"}, ARRAYS)
  return tmp_path / "model"


@pytest.fixture
def unsealed(written):
  """The same of another program, which writes no checksums."""
  (written / "checksums.json").unlink()
  return written


def _check(folder, arrays=ARRAYS):
  result = safetensors_folder.read(folder)
  assert result.keys() == arrays.keys()
  for name, array in arrays.items():
    assert result[name].dtype == np.float32
    np.testing.assert_array_equal(result[name], array)
  shapes = {name: array.shape for name, array in arrays.items()}
  assert safetensors_folder.read_shapes(folder) == shapes


def test_write_then_read_is_the_identity(written):
  _check(written)
  assert safetensors_folder.read_config(written, "Toy") == {}
  assert {path.name for path in written.iterdir()} == {
    WEIGHTS,
    "config.json",
    "checksums.json",
  }
  # Whoever may read the one may read the other.
  assert len({path.stat().st_mode for path in written.iterdir()}) == 1
  # A second time takes the place of the first.
  safetensors_folder.write(written, {"_class_name": "Toy", "x": 1}, {"c": np.ones(2)})
  _check(written, {"c": np.ones(2, np.float32)})
  assert safetensors_folder.read_config(written, "Toy") == {"x": 1}


def test_read_joins_shards_by_their_index(unsealed):
  (unsealed / WEIGHTS).unlink()
  names = [f"diffusion_pytorch_model-0000{i}-of-00002.safetensors" for i in (1, 2)]
  for name, (key, array) in zip(names, ARRAYS.items(), strict=True):
    safetensors_numpy.save_file({key: array}, unsealed / name)
  index = {"weight_map": dict(zip(ARRAYS, names, strict=True))}
  (unsealed / f"{WEIGHTS}.index.json").write_text(json.dumps(index))
  _check(unsealed)
  (unsealed / names[1]).unlink()
  with pytest.raises(errors.InputError, match=r"00002-of-00002.* is absent"):
    safetensors_folder.read_shapes(unsealed)
  # The folder itself.
  (unsealed / f"{WEIGHTS}.index.json").write_text('{"weight_map": {"a": ""}}')
  with pytest.raises(errors.InputError, match="is absent or cannot"):
    safetensors_folder.read_shapes(unsealed)
  (unsealed / f"{WEIGHTS}.index.json").write_text("{}")
  with pytest.raises(errors.InputError, match=r"index.json is absent or cannot"):
    safetensors_folder.read_shapes(unsealed)


def test_read_takes_a_16_bit_variant_if_there_is_no_other(unsealed):
  half = {name: array.astype(np.float16) for name, array in ARRAYS.items()}
  (unsealed / WEIGHTS).unlink()
  safetensors_numpy.save_file(
    half, unsealed / "diffusion_pytorch_model.fp16.safetensors"
  )
  _check(unsealed)
  safetensors_numpy.save_file({"c": np.ones(1, np.float32)}, unsealed / WEIGHTS)
  _check(unsealed, {"c": np.ones(1, np.float32)})


def test_read_ignores_other_weights_under_the_name_of_a_variant(unsealed):
  (unsealed / WEIGHTS).rename(unsealed / "diffusion_pytorch_model.non_ema.safetensors")
  with pytest.raises(errors.InputError, match="no weights in"):
    safetensors_folder.read(unsealed)


@pytest.mark.parametrize("kept", [0, 4, 60, -1])
def test_read_shapes_reports_a_truncated_file(kept, unsealed):
  data = (unsealed / WEIGHTS).read_bytes()
  (unsealed / WEIGHTS).write_bytes(data[:kept])
  with pytest.raises(errors.InputError, match=f"{WEIGHTS} is absent or cannot be"):
    safetensors_folder.read_shapes(unsealed)


@pytest.mark.parametrize("text", ["", "[1]", "{"])
def test_read_config_reports_a_wrong_configuration(text, unsealed):
  (unsealed / "config.json").write_text(text)
  with pytest.raises(errors.InputError, match=r"config.json is absent or cannot"):
    safetensors_folder.read_config(unsealed, "Toy")


@pytest.mark.parametrize(
  "sizes",
  [
    {"layers_per_block": 10**7},
    {"block_out_channels": [32] * 10**5},
    {"block_out_channels": [32, 10**12]},
    {"text_config": {"num_hidden_layers": 10**7}},
    {"hidden_size": float("nan")},
  ],
)
def test_read_config_refuses_sizes_of_no_real_model(unsealed, sizes):
  text = json.dumps({"_class_name": "Toy", "vocab_size": 250_002, **sizes})
  (unsealed / "config.json").write_text(text)
  with pytest.raises(errors.InputError, match="at most"):
    safetensors_folder.read_config(unsealed, "Toy")


def test_read_refuses_a_pickle_and_says_how_to_convert_it(unsealed):
  (unsealed / WEIGHTS).unlink()
  (unsealed / "diffusion_pytorch_model.bin").write_bytes(b"")
  with pytest.raises(errors.InputError) as caught:
    safetensors_folder.read(unsealed)
  reported = str(caught.value)
  assert "diffusion_pytorch_model.bin is a pickle" in reported
  assert f"AutoModel.from_pretrained('{unsealed}', use_safetensors=False)" in reported
  assert ".save_pretrained('NEW_FOLDER')" in reported


def test_locate_refuses_a_single_checkpoint_and_says_how_to_convert_it(tmp_path):
  (tmp_path / "v1-5.ckpt").write_bytes(b"")
  with pytest.raises(errors.InputError, match=r"from_single_file\('.*v1-5.ckpt'\)"):
    safetensors_folder.locate(tmp_path, "unet")


def test_locate_lists_the_files_of_a_folder_without_a_model(tmp_path):
  (tmp_path / "notes.txt").write_text("")
  with pytest.raises(errors.InputError, match=r"no config.json in .*holds notes.txt"):
    safetensors_folder.locate(tmp_path, "vae")
  with pytest.raises(errors.InputError, match=r"no config.json in .*nowhere"):
    safetensors_folder.locate(tmp_path / "nowhere", "vae")


def test_write_does_not_shadow_weights_in_another_form(unsealed):
  (unsealed / WEIGHTS).rename(unsealed / "diffusion_pytorch_model.fp16.safetensors")
  with pytest.raises(errors.InputError, match=r"fp16.safetensors already"):
    safetensors_folder.write(unsealed, {}, ARRAYS)


def test_write_keeps_the_old_model_after_a_failure(unsealed, monkeypatch):
  def fail(*arguments):
    raise OSError(28, "No space left on device")

  monkeypatch.setattr(os, "replace", fail)
  with pytest.raises(errors.InputError, match="No space left"):
    safetensors_folder.write(unsealed, {"_class_name": "Other"}, {"c": np.ones(1)})
  _check(unsealed)
  assert safetensors_folder.read_config(unsealed, "Toy") == {}


def test_read_refuses_an_index_that_leaves_its_folder(unsealed):
  (unsealed / WEIGHTS).rename(unsealed.parent / "outside.safetensors")
  index = {"weight_map": dict.fromkeys(ARRAYS, "../outside.safetensors")}
  (unsealed / f"{WEIGHTS}.index.json").write_text(json.dumps(index))
  with pytest.raises(errors.InputError, match=r"outside.safetensors is absent"):
    safetensors_folder.read(unsealed)
