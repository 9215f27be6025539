"""Networks whose weights are converted: shapes, names, files that are wrong."""

import math

from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.encoders.extractors import networks
from cxr_diffusion_jax.encoders.extractors import opening as features
from cxr_diffusion_jax.interop import names

# Of the published files: parameters without the norms' statistics, arrays, some names
# and PyTorch's shapes of them.
PUBLISHED = {
  "inception": (
    networks.inception_v3,
    21_785_568,
    94 * 5,
    {
      "Conv2d_1a_3x3.conv.weight": (32, 3, 3, 3),
      "Mixed_5b.branch5x5_2.conv.weight": (64, 48, 5, 5),
      "Mixed_6a.branch3x3dbl_3.conv.weight": (96, 96, 3, 3),
      "Mixed_6c.branch7x7_2.conv.weight": (160, 160, 1, 7),
      "Mixed_6c.branch7x7dbl_2.conv.weight": (160, 160, 7, 1),
      "Mixed_7a.branch7x7x3_4.bn.running_var": (192,),
      "Mixed_7c.branch3x3dbl_3b.bn.running_mean": (384,),
    },
  ),
  "densenet": (
    networks.densenet_121,
    6_966_034,
    120 + 121 * 4 + 2,
    {
      "features.conv0.weight": (64, 1, 7, 7),
      "features.denseblock1.denselayer1.norm1.weight": (64,),
      "features.denseblock3.denselayer24.conv1.weight": (128, 992, 1, 1),
      "features.transition2.conv.weight": (256, 512, 1, 1),
      "features.norm5.running_mean": (1024,),
      "classifier.weight": (18, 1024),
    },
  ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_networks_have_the_published_shapes(name):
  make, num_parameters, num_arrays, known = PUBLISHED[name]
  network = make()
  image = jax.ShapeDtypeStruct((2, *network.input_shape), jnp.float32)
  result, variables = jax.eval_shape(
    network.module.init_with_output, jax.random.key(0), image
  )
  assert jax.tree.leaves(result)[0].shape == (2, network.width)
  shapes = traverse_util.flatten_dict(variables["params"])
  named = {names.torch_name(place): leaf.shape for place, leaf in shapes.items()}
  assert len(named) == num_arrays
  counted = [math.prod(shape) for key, shape in named.items() if ".running_" not in key]
  assert sum(counted) == num_parameters
  for key, shape in known.items():
    assert sorted(named[key]) == sorted(shape), key


def test_resize_as_tensorflow_1_interpolates_pixels():
  ramp = np.arange(8.0, dtype=np.float32).reshape(1, 2, 4, 1)

  @jax.jit
  def resized(image):
    grown = networks.resize_as_tensorflow_1(image, 8)
    return grown[0, ..., 0], networks.resize_as_tensorflow_1(grown, 4)[0, ..., 0]

  grown, back = map(np.asarray, resized(ramp))
  # Half steps, and the last pixel again where there is no next one.
  np.testing.assert_allclose(grown[0], [0, 0.5, 1, 1.5, 2, 2.5, 3, 3])
  np.testing.assert_allclose(grown[:, 0], [0, 1, 2, 3, 4, 4, 4, 4])
  # Shrinking picks, and does not average.
  np.testing.assert_array_equal(back, grown[::2, ::2])


def _open(arrays, path):
  safetensors.numpy.save_file(arrays, path)
  (extractor,), _ = features.open_extractors(
    ["densenet"], weights={"densenet": str(path)}
  )
  return extractor


def test_networks_load_each_weight_to_its_place(densenet_arrays, tmp_path):
  extractor = _open(densenet_arrays, tmp_path / "densenet.safetensors")
  assert (extractor.name, extractor.standin, extractor.width) == ("densenet", False, 8)
  kernel = extractor.params["features"]["conv0"]["kernel"]
  np.testing.assert_array_equal(
    kernel, densenet_arrays["features.conv0.weight"].transpose(2, 3, 1, 0)
  )
  layer = extractor.params["features"]["denseblock1"]["denselayer2"]
  name = "features.denseblock1.denselayer2.norm1"
  for ours, theirs in (
    ("scale", "weight"),
    ("bias", "bias"),
    ("mean", "running_mean"),
    ("var", "running_var"),
  ):
    np.testing.assert_array_equal(
      layer["norm1"][ours], densenet_arrays[f"{name}.{theirs}"]
    )
  np.testing.assert_array_equal(
    extractor.params["classifier"]["kernel"], densenet_arrays["classifier.weight"].T
  )


def test_networks_report_weights_that_do_not_fit(densenet_arrays, tmp_path):
  path = tmp_path / "densenet.safetensors"
  del densenet_arrays["features.norm5.bias"]
  densenet_arrays["features.conv0.weight"] = np.zeros((4, 3, 7, 7), np.float32)
  densenet_arrays["features.layer9.weight"] = np.zeros(1, np.float32)
  with pytest.raises(errors.InputError) as reported:
    _open(densenet_arrays, path)
  for part in (
    "1 missing: features.norm5.bias",
    "features.conv0.weight [4, 3, 7, 7] for [4, 1, 7, 7]",
    "1 unknown: features.layer9.weight",
    str(path),
    "safetensors.torch.save_file",
  ):
    assert part in str(reported.value)


def test_networks_reject_other_files(small_densenet, tmp_path):
  pickled = tmp_path / "weights.pth"
  pickled.write_bytes(b"")
  cut = tmp_path / "cut.safetensors"
  cut.write_bytes(b"12")
  for name, path, reported in (
    ("inception", pickled, "is no safetensors; .* weights_only=True"),
    ("densenet", tmp_path / "none.safetensors", "is absent; .* xrv.models.DenseNet"),
    ("densenet", cut, "cannot be read"),
  ):
    with pytest.raises(errors.InputError, match=reported):
      features.open_extractors("auto", weights={name: str(path)})
  with pytest.raises(errors.InputError, match=r"inception=FILE\.safetensors"):
    features.open_extractors(["inception"])
