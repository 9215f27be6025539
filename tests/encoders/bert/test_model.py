"""A BERT that PyTorch saved gives PyTorch's numbers here, without PyTorch."""

import json
import pathlib
import shutil
import sys

from flax import serialization, traverse_util
import huggingface_hub
import numpy as np
import pytest
from safetensors import numpy as safetensors_numpy

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.encoders.bert import files as bert_files
from cxr_diffusion_jax.encoders.bert import model as bert_model
from cxr_diffusion_jax.encoders.columns import bert as bert_columns

TORCH = pathlib.Path(__file__).parent / "torch_bert"


@pytest.fixture(scope="module")
def cxr_bert() -> bert_model.BertModel:
  return bert_model.load(TORCH / "cxr_bert")


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
  """A copy to change."""
  return pathlib.Path(shutil.copytree(TORCH / "cxr_bert", tmp_path / "bert"))


def expected(name: str) -> dict[str, np.ndarray]:
  with np.load(TORCH / name / "expected.npz") as arrays:
    return dict(arrays)


@pytest.mark.parametrize("name", ["cxr_bert", "roberta"])
def test_encode_equals_pytorch(name, request):
  arrays = expected(name)
  loaded = name == "cxr_bert"
  model = request.getfixturevalue(name) if loaded else bert_model.load(TORCH / name)
  states, mask = bert_model.encode(model, list(arrays["prompts"]))
  length = arrays["mask"].shape[1]
  assert states.shape == (2, -(-128 // length), length, 16)
  # The first window ends where PyTorch truncates.
  np.testing.assert_array_equal(mask[:, 0], arrays["mask"])
  kept = arrays["mask"]
  np.testing.assert_allclose(states[:, 0][kept], arrays["states"][kept], atol=1e-5)
  assert "torch" not in sys.modules


def test_encoder_writes_zeros_where_there_is_no_token(cxr_bert):
  encoder = bert_columns.BertEncoder(model=cxr_bert)
  prompts = list(expected("cxr_bert")["prompts"])
  values = encoder.encode_text(bert_columns.COLUMNS, prompts)
  states, mask = bert_model.encode(cxr_bert, prompts)
  for name, array in values.items():
    assert array.shape[1:] == encoder.shapes[name]
  np.testing.assert_array_equal(
    (values["bert_text"] != 0).any(axis=-1), mask.reshape(2, -1)
  )
  # One window for the first text, several for the second.
  np.testing.assert_array_equal(values["bert_cls"][:, 0], states[:, 0, 0])
  used = (values["bert_cls"] != 0).any(axis=-1).sum(axis=1)
  assert used[0] == 1 < used[1]


def test_windows_hold_whole_texts_as_far_as_positions_allow():
  assert bert_model.windows(512, 1) == (1, 128)
  assert bert_model.windows(512, 4) == (1, 512)
  assert bert_model.windows(512, 6) == (2, 512)
  shapes = bert_columns.shapes("microsoft/BiomedVLP-CXR-BERT-specialized", 2)
  assert shapes == {"bert_text": (256, 768), "bert_cls": (1, 768)}


def test_load_reads_flax_weights_and_old_names_of_norms(folder, cxr_bert):
  arrays = safetensors_numpy.load_file(folder / "model.safetensors")
  old = {
    name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
      "LayerNorm.bias", "LayerNorm.beta"
    ): array
    for name, array in arrays.items()
  }
  safetensors_numpy.save_file(old, folder / "model.safetensors")
  marks = {bert_model.describe(bert_model.load(folder)).rsplit(" ")[-1]}
  (folder / "model.safetensors").unlink()
  tree = {"bert": cxr_bert.params}
  flat = traverse_util.flatten_dict(tree, sep="/")
  content = traverse_util.unflatten_dict(
    {path: np.asarray(leaf) for path, leaf in flat.items()}, sep="/"
  )
  (folder / "flax_model.msgpack").write_bytes(serialization.to_bytes(content))
  marks.add(bert_model.describe(bert_model.load(folder)).rsplit(" ")[-1])
  assert marks == {bert_model.describe(cxr_bert).rsplit(" ")[-1]}


def _change_config(folder: pathlib.Path, **values) -> None:
  path = folder / "config.json"
  config = json.loads(path.read_text(encoding="utf-8")) | values
  path.write_text(json.dumps(config), encoding="utf-8")


@pytest.mark.parametrize(
  ("change", "reported"),
  [
    (lambda f: _change_config(f, model_type="t5"), "type 't5'; expected one of bert"),
    (
      lambda f: _change_config(f, model_type=["bert"]),
      r"type \[.bert.\]; exp",
    ),
    (
      lambda f: _change_config(f, position_embedding_type="relative_key"),
      "'relative_key' positions",
    ),
    (
      lambda f: _change_config(f, hidden_size="big"),
      "hidden_size 'big'; expected 1 to",
    ),
    (lambda f: _change_config(f, num_attention_heads=5), "5 heads of 16"),
    (
      lambda f: _change_config(f, max_position_embeddings=0),
      "max_position_embeddings 0",
    ),
    (lambda f: _change_config(f, hidden_act="none"), "hidden_act 'none'; expected one"),
    (lambda f: _change_config(f, num_hidden_layers=1), r"unknown: encoder\.layer\.1"),
    (lambda f: _change_config(f, num_hidden_layers=3), r"missing: encoder\.layer\.2"),
    (
      lambda f: (f / "vocab.txt").write_text((f / "vocab.txt").read_text() + "x y\n"),
      "has 65 ids.* expected at most 64",
    ),
    (lambda f: (f / "vocab.txt").unlink(), "no tokenizer in"),
    (lambda f: (f / "config.json").unlink(), "no BERT in"),
    (
      lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"),
      r"a pickle.*BertModel, BertTokenizerFast.*NEW_FOLDER",
    ),
  ],
)
def test_load_reports_what_does_not_fit(folder, change, reported):
  change(folder)
  with pytest.raises(errors.InputError, match=reported):
    bert_model.load(folder)


def test_shapes_refuse_a_folder_without_all_files(folder):
  """When the experiment is built: `prepare` on a whole corpus takes hours."""
  assert bert_columns.shapes(str(folder))["bert_cls"][-1] == 16
  (folder / "model.safetensors").unlink()
  with pytest.raises(errors.InputError, match="no weights in"):
    bert_columns.shapes(str(folder))


def test_resolve_refuses_an_id_with_a_pickle_alone(monkeypatch):
  files = ["config.json", "pytorch_model.bin", "vocab.txt"]
  asked = {}

  def download(name, allow_patterns):
    asked[name] = allow_patterns
    return str(TORCH / "cxr_bert")

  monkeypatch.setattr(huggingface_hub, "list_repo_files", lambda name: files)
  monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
  with pytest.raises(errors.InputError, match=r"someone/bert has its weights in pytor"):
    bert_files.resolve("someone/bert")
  assert not asked
  files.append("model.safetensors")
  assert bert_files.resolve("someone/bert") == TORCH / "cxr_bert"
  assert "vocab.txt" in asked["someone/bert"]
