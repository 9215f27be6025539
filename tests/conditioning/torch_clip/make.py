"""Writes this folder: a tiny random CLIP as PyTorch saves it, and what it computes.

  python make.py      # torch 2.15.0, transformers 4.57.6; not needed by the tests

The tests load the folder without PyTorch and compare against expected.npz.
"""

import json
import pathlib

import numpy as np
from tokenizers import pre_tokenizers
import torch
import transformers

FOLDER = pathlib.Path(__file__).parent
PROMPTS = ["no finding", "Small LEFT effusion, and a rather long tail of words"]


def make_tokenizer() -> transformers.CLIPTokenizerFast:
  """A vocabulary of single bytes, without merges."""
  alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
  words = [*alphabet, *(byte + "</w>" for byte in alphabet)]
  words += ["<|startoftext|>", "<|endoftext|>"]
  vocabulary = {word: i for i, word in enumerate(words)}
  (FOLDER / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
  (FOLDER / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
  return transformers.CLIPTokenizerFast.from_pretrained(FOLDER, model_max_length=16)


def make_model(tokenizer: transformers.CLIPTokenizerFast) -> transformers.CLIPModel:
  """A CLIP of two layers a side with random weights, biases and scales included."""
  layers = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "projection_dim": 8,
  }
  text = layers | {
    "vocab_size": len(tokenizer),
    "max_position_embeddings": 16,
    "bos_token_id": tokenizer.bos_token_id,
    "eos_token_id": tokenizer.eos_token_id,
    "pad_token_id": tokenizer.pad_token_id,
  }
  vision = layers | {"image_size": 32, "patch_size": 8}
  config = transformers.CLIPConfig(
    text_config=text, vision_config=vision, projection_dim=8
  )
  model = transformers.CLIPModel(config).eval()
  with torch.no_grad():
    for parameter in model.parameters():
      parameter.add_(0.2 * torch.randn_like(parameter))
  return model


def main() -> None:
  torch.manual_seed(0)
  tokenizer = make_tokenizer()
  model = make_model(tokenizer)
  processor = transformers.CLIPImageProcessor(
    size={"shortest_edge": 36}, crop_size={"height": 32, "width": 32}
  )
  model.save_pretrained(FOLDER)
  tokenizer.save_pretrained(FOLDER, legacy_format=True)
  processor.save_pretrained(FOLDER)
  images = np.random.default_rng(0).integers(0, 256, (2, 40, 49, 1), np.uint8)
  pixels = processor(list(images.repeat(3, axis=-1)), return_tensors="pt")
  tokens = tokenizer(
    PROMPTS, padding="max_length", truncation=True, max_length=16, return_tensors="pt"
  )
  with torch.no_grad():
    text = model.text_model(input_ids=tokens["input_ids"])
    vision = model.vision_model(pixel_values=pixels["pixel_values"])
    np.savez_compressed(
      FOLDER / "expected.npz",
      prompts=np.array(PROMPTS),
      images=images,
      text_mask=tokens["attention_mask"].numpy().astype(bool),
      text_tokens=text.last_hidden_state.numpy(),
      text_embedding=model.text_projection(text.pooler_output).numpy(),
      image_tokens=vision.last_hidden_state.numpy(),
      image_embedding=model.visual_projection(vision.pooler_output).numpy(),
    )


if __name__ == "__main__":
  main()
