"""A conditioning path is two files: it trains and samples without other edits."""

import importlib

import numpy as np


def test_a_path_is_two_files(install):
  install("conditioning/view.py")
  install("configs/view.py")
  config = importlib.import_module("configs.view").get_config("tiny")
  path = importlib.import_module(
    f"cxr_diffusion_jax.conditioning.{config.conditioning.name}"
  ).Conditioner()
  (stream,) = path({"view": np.array([0, 1, -1])})
  assert stream.tokens.shape[1:] == (path.streams[0].num_tokens, path.streams[0].width)
  assert stream.mask[:, 0].tolist() == [True, True, False]
