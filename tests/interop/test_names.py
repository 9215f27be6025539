"""Names and axes go over to PyTorch and back."""

import numpy as np
import pytest

from cxr_diffusion_jax.interop import names


@pytest.mark.parametrize(
  ("path", "name"),
  [
    ("conv_in/kernel", "conv_in.weight"),
    ("time_embedding/linear_1/bias", "time_embedding.linear_1.bias"),
    ("text_model/token_embedding/embedding", "text_model.token_embedding.weight"),
    ("Mixed_5b/branch5x5_1/bn/mean", "Mixed_5b.branch5x5_1.bn.running_mean"),
    ("visual/logit_scale", "visual.logit_scale"),
    ("mid_block/resnets_1/norm2/scale", "mid_block.resnets.1.norm2.weight"),
    (
      "up_blocks_3/attentions_2/transformer_blocks_0/ff/net_0/proj/kernel",
      "up_blocks.3.attentions.2.transformer_blocks.0.ff.net.0.proj.weight",
    ),
    (
      "down_blocks_0/attentions_1/transformer_blocks_0/attn2/to_out_0/bias",
      "down_blocks.0.attentions.1.transformer_blocks.0.attn2.to_out.0.bias",
    ),
  ],
)
def test_torch_name_is_a_published_name(path, name):
  assert names.torch_name(tuple(path.split("/"))) == name


@pytest.mark.parametrize("leaf", ["kernel", "bias", "scale", "embedding"])
@pytest.mark.parametrize("shape", [(2,), (2, 3), (3, 5, 2, 4)])
def test_to_torch_and_from_torch_are_inverse(leaf, shape):
  array = np.arange(np.prod(shape)).reshape(shape)
  there = names.to_torch((leaf,), array)
  tree = {"layer": {leaf: array}}
  assert list(names.shapes_by_name(tree).values()) == [there.shape]
  np.testing.assert_array_equal(names.from_torch((leaf,), there), array)
  if leaf == "kernel" and len(shape) == 4:
    assert there[3, 1, 2, 4] == array[2, 4, 1, 3]


def test_modern_renames_only_attentions():
  assert names.modern("mid_block.attentions.0.key.bias") == (
    "mid_block.attentions.0.to_k.bias"
  )
  for name in ("a", "key.bias", "resnets.0.key.bias", "attentions.0.to_out.0.bias"):
    assert names.modern(name) == name
