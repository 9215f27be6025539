"""Writes what a random CLIP computes in PyTorch, and where there is none, the CLIP too.

  python make.py           # expected.npz again, of the CLIP that this folder holds
  python make.py FOLDER    # a larger CLIP, drawn into an empty folder, and its numbers

It needs torch and transformers. The weights here were drawn with torch 2.15.0 and
transformers 4.57.6; expected.npz names the versions that computed it. The tests load
both without PyTorch, and draw a larger one where PyTorch is installed.
"""

import json
import pathlib
import sys
from typing import Any

import numpy as np
from tokenizers import pre_tokenizers
import torch
import transformers

HERE = pathlib.Path(__file__).parent
PROMPTS = ["no finding", "Small LEFT effusion, and a rather long tail of words"]

# Sizes of both models, tokens of a prompt, pixels of a side.
TINY = (
  {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "projection_dim": 8,
  },
  16,
  32,
)

# Also what the small one has not: another activation, as fine-tuned models have it.
LARGE = (
  {
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "projection_dim": 48,
    "hidden_act": "gelu",
  },
  77,
  64,
)


def make_tokenizer(folder: pathlib.Path, length: int) -> transformers.CLIPTokenizerFast:
  """A vocabulary of single bytes, without merges."""
  alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
  words = [*alphabet, *(byte + "</w>" for byte in alphabet)]
  words += ["<|startoftext|>", "<|endoftext|>"]
  vocabulary = {word: i for i, word in enumerate(words)}
  (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
  (folder / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
  return transformers.CLIPTokenizerFast.from_pretrained(folder, model_max_length=length)


def make_model(
  tokenizer: transformers.CLIPTokenizerFast,
  layers: dict[str, Any],
  image_size: int,
) -> transformers.CLIPModel:
  """A CLIP with random weights, biases and scales included."""
  layers = layers | {"intermediate_size": 2 * layers["hidden_size"]}
  text = layers | {
    "vocab_size": len(tokenizer),
    "max_position_embeddings": tokenizer.model_max_length,
    "bos_token_id": tokenizer.bos_token_id,
    "eos_token_id": tokenizer.eos_token_id,
    "pad_token_id": tokenizer.pad_token_id,
  }
  vision = layers | {"image_size": image_size, "patch_size": 8}
  config = transformers.CLIPConfig(
    text_config=text, vision_config=vision, projection_dim=layers["projection_dim"]
  )
  model = transformers.CLIPModel(config).eval()
  with torch.no_grad():
    for parameter in model.parameters():
      parameter.add_(0.2 * torch.randn_like(parameter))
  return model


def draw(
  folder: pathlib.Path, layers: dict[str, Any], text_size: int, image_size: int
) -> None:
  """Writes a CLIP with random weights, its tokenizer and its image settings."""
  torch.manual_seed(0)
  tokenizer = make_tokenizer(folder, text_size)
  processor = transformers.CLIPImageProcessor(
    size={"shortest_edge": image_size + 4},
    crop_size={"height": image_size, "width": image_size},
  )
  make_model(tokenizer, layers, image_size).save_pretrained(folder)
  tokenizer.save_pretrained(folder, legacy_format=True)
  processor.save_pretrained(folder)


def in_two_windows(
  tokenizer: transformers.CLIPTokenizerFast, prompt: str
) -> torch.Tensor:
  """Ids [2 l] of a prompt parted by hand: its words, then those that the cut lost."""
  length = tokenizer.model_max_length
  words = tokenizer.tokenize(prompt)
  rows = []
  for part in (words[: length - 2], words[length - 2 : 2 * (length - 2)]):
    framed = [tokenizer.bos_token, *part, tokenizer.eos_token]
    framed += [tokenizer.pad_token] * (length - len(framed))
    rows.append(tokenizer.convert_tokens_to_ids(framed))
  return torch.tensor(rows)


@torch.no_grad()
def compute(folder: pathlib.Path) -> dict[str, np.ndarray]:
  """What PyTorch makes of two prompts and two images with the folder's CLIP."""
  model = transformers.CLIPModel.from_pretrained(folder).eval()
  tokenizer = transformers.CLIPTokenizerFast.from_pretrained(folder)
  processor = transformers.CLIPImageProcessor.from_pretrained(folder)
  side = model.config.vision_config.image_size
  shape = (2, side + 8, side + 17, 1)
  images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
  pixels = processor(list(images.repeat(3, axis=-1)), return_tensors="pt")
  # The second one does not fit into a window, whatever its length.
  prompts = [PROMPTS[0], PROMPTS[1] * (tokenizer.model_max_length // 16)]
  tokens = tokenizer(
    prompts, padding="max_length", truncation=True, return_tensors="pt"
  )
  windows = model.text_model(input_ids=in_two_windows(tokenizer, prompts[1]))
  out = model(
    input_ids=tokens["input_ids"],
    pixel_values=pixels["pixel_values"],
    output_hidden_states=True,
  )
  text, vision = out.text_model_output, out.vision_model_output
  arrays = {
    "text_tokens": text.last_hidden_state,
    "text_embedding": model.text_projection(text.pooler_output),
    "window_tokens": windows.last_hidden_state,
    "image_tokens": vision.last_hidden_state,
    "image_patches": vision.hidden_states[-2],
    "image_embedding": model.visual_projection(vision.pooler_output),
    "similarity": out.logits_per_image,
  }
  versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
  return {
    "versions": np.array(versions),
    "prompts": np.array(prompts),
    "images": images,
    "text_mask": tokens["attention_mask"].numpy().astype(bool),
    **{name: array.numpy() for name, array in arrays.items()},
  }


def main() -> None:
  folder = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else HERE
  if not (folder / "model.safetensors").is_file():
    draw(folder, *(TINY if folder == HERE else LARGE))
  np.savez_compressed(folder / "expected.npz", **compute(folder))


if __name__ == "__main__":
  main()
