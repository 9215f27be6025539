"""Draws two random models and writes what PyTorch computes with them.

  python make.py    # cxr_bert/ and roberta/, each with expected.npz

It needs torch and transformers; expected.npz names the versions that computed it. The
first is saved as CXR-BERT is: with the heads of a masked language model, a projection
head, and its own type in config.json. Tests load both without PyTorch.
"""

import json
import pathlib

import numpy as np
from safetensors.torch import save_file
from tokenizers import pre_tokenizers
import torch
import transformers

HERE = pathlib.Path(__file__).parent
PROMPTS = ["No finding.", "Small LEFT effusion; no pneumothorax " + "is seen " * 20]

SIZES = {
  "hidden_size": 16,
  "num_hidden_layers": 2,
  "num_attention_heads": 2,
  "intermediate_size": 32,
}


def randomised(model: torch.nn.Module) -> torch.nn.Module:
  """All parameters, biases and scales included, away from their defaults."""
  torch.manual_seed(0)
  with torch.no_grad():
    for parameter in model.parameters():
      parameter.add_(0.2 * torch.randn_like(parameter))
  return model.eval()


def make_cxr_bert(folder: pathlib.Path) -> None:
  """A BERT with CXR-BERT's heads and WordPiece vocabulary."""
  letters = "abcdefghijklmnopqrstuvwxyz"
  words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", ";", "no", "finding"]
  words += ["effusion", "pneumo", "##thorax", *letters, *(f"##{x}" for x in letters)]
  (folder / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
  config = transformers.BertConfig(
    vocab_size=len(words), max_position_embeddings=24, **SIZES
  )
  model = randomised(transformers.BertForMaskedLM(config))
  weights = {name: x.contiguous() for name, x in model.state_dict().items()}
  # Tied to the embeddings, and left out of files.
  weights = {k: x for k, x in weights.items() if not k.startswith("cls.predictions.d")}
  for name in ("dense_to_hidden", "LayerNorm", "dense_to_output"):
    weights[f"cls_projection_head.{name}.weight"] = torch.zeros(4)
  save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
  values = config.to_dict() | {"model_type": "cxr-bert", "projection_size": 4}
  (folder / "config.json").write_text(json.dumps(values, indent=1), encoding="utf-8")
  tokenizer = transformers.BertTokenizerFast.from_pretrained(folder)
  write(folder, model.bert, tokenizer, 24)


def make_roberta(folder: pathlib.Path) -> None:
  """A RoBERTa with single bytes as its vocabulary."""
  words = ["<s>", "<pad>", "</s>", "<unk>", *pre_tokenizers.ByteLevel.alphabet()]
  vocabulary = {word: i for i, word in enumerate([*words, "<mask>"])}
  (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
  (folder / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
  config = transformers.RobertaConfig(
    vocab_size=len(vocabulary), max_position_embeddings=42, type_vocab_size=1, **SIZES
  )
  model = randomised(transformers.RobertaModel(config, add_pooling_layer=False))
  model.save_pretrained(folder)
  tokenizer = transformers.RobertaTokenizerFast.from_pretrained(folder)
  write(folder, model, tokenizer, 40)


@torch.no_grad()
def write(folder: pathlib.Path, model, tokenizer, length: int) -> None:
  """Writes states of the prompts, whole to `length` tokens."""
  tokens = tokenizer(
    PROMPTS,
    padding="max_length",
    truncation=True,
    max_length=length,
    return_tensors="pt",
  )
  states = model(**tokens).last_hidden_state
  versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
  np.savez_compressed(
    folder / "expected.npz",
    versions=np.array(versions),
    prompts=np.array(PROMPTS),
    mask=tokens["attention_mask"].numpy().astype(bool),
    states=states.numpy(),
  )


def main() -> None:
  for name, make in (("cxr_bert", make_cxr_bert), ("roberta", make_roberta)):
    folder = HERE / name
    folder.mkdir(exist_ok=True)
    make(folder)


if __name__ == "__main__":
  main()
