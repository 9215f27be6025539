"""Folders of diffusers load with its numbers, and what is saved loads bit for bit."""

import json

import jax
import numpy as np
import pytest
from safetensors import numpy as safetensors_numpy

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.interop import diffusers
from cxr_diffusion_jax.models.autoencoder import AutoencoderKL
from cxr_diffusion_jax.types import StreamSpec, TokenStream

WEIGHTS = "diffusion_pytorch_model.safetensors"


def _same(ours, theirs):
  assert jax.tree.structure(ours) == jax.tree.structure(theirs)
  jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_load_unet_gives_the_outputs_of_diffusers(folder, records, script):
  unet, params = diffusers.load_unet(folder("sd2"))
  given = script.unet_inputs(records["sd2"]["config"]["in_channels"])
  context = (TokenStream(tokens=given["tokens"], mask=given["mask"]),)
  answer = jax.jit(unet.apply)({"params": params}, given["x_t"], given["t"], context)
  expected = np.float32(records["sd2"]["answer"]).reshape(answer.shape)
  assert np.std(expected) > 0.1
  np.testing.assert_allclose(answer, expected, rtol=0, atol=2e-5)


def test_load_unet_with_scale_shift_gives_the_outputs_of_diffusers(
  folder, records, script
):
  name = "classes"
  unet, params = diffusers.load_unet(folder(name))
  given = script.unet_inputs(1)
  classes = script.formula().parameter("class_embedding.weight", (5, 32))
  last, apply = params["time_embedding"]["linear_2"], jax.jit(unet.apply)
  bias, answers = last["bias"], []
  for i, label in enumerate(given["class_labels"]):
    one = {key: value[i : i + 1] for key, value in given.items()}
    context = (TokenStream(tokens=one["tokens"], mask=one["mask"]),)
    last["bias"] = bias + classes[label]
    answers.append(apply({"params": params}, one["x_t"], one["t"], context))
  answer = np.concatenate(answers)
  expected = np.float32(records[name]["answer"]).reshape(answer.shape)
  assert np.std(expected) > 0.1
  np.testing.assert_allclose(answer, expected, rtol=0, atol=2e-5)


def test_load_autoencoder_gives_the_outputs_of_diffusers(folder, records, script):
  network, params = diffusers.load_autoencoder(folder("autoencoder"))
  assert (network.scaling_factor, network.shift_factor) == (0.3, 0.1)
  record = records["autoencoder"]
  encode = jax.jit(lambda x: network.apply({"params": params}, x, method="encode"))
  moments = np.concatenate(encode(script.waves(1, 8, 12, 1)), axis=-1)
  np.testing.assert_allclose(
    moments.ravel(), np.float32(record["moments"]), rtol=0, atol=2e-5
  )
  decode = jax.jit(lambda x: network.apply({"params": params}, x, method="decode"))
  image = decode(script.waves(1, 4, 6, 3))
  np.testing.assert_allclose(
    image.ravel(), np.float32(record["image"]), rtol=0, atol=1e-4
  )


@pytest.mark.parametrize("name", ["sd2", "classes"])
def test_save_unet_writes_the_same_bits_and_options(
  name, folder, records, arrays, tmp_path
):
  unet, params = diffusers.load_unet(folder(name))
  diffusers.save_unet(tmp_path / "again", unet, params)
  saved = safetensors_numpy.load_file(tmp_path / "again" / WEIGHTS)
  _same(saved, arrays(name))
  config = json.loads((tmp_path / "again" / "config.json").read_text())
  wanted = {k: v for k, v in records[name]["config"].items() if k in config}
  # A list of one level may be given as its number.
  assert {**config, "transformer_layers_per_block": 0, "attention_head_dim": 0} == {
    **wanted,
    "transformer_layers_per_block": 0,
    "attention_head_dim": 0,
  }
  again, params_again = diffusers.load_unet(tmp_path / "again")
  assert again == unet
  _same(params_again, params)


def test_save_autoencoder_writes_the_same_bits(folder, arrays, tmp_path):
  network, params = diffusers.load_autoencoder(folder("autoencoder"))
  diffusers.save_autoencoder(tmp_path / "again", network, params)
  _same(
    safetensors_numpy.load_file(tmp_path / "again" / WEIGHTS), arrays("autoencoder")
  )
  again, params_again = diffusers.load_autoencoder(tmp_path / "again")
  assert again == network
  _same(params_again, params)


def test_save_unet_writes_half_precision_on_request(own, tmp_path):
  unet, params = own
  diffusers.save_unet(tmp_path, unet, params, dtype="float16")
  stored = safetensors_numpy.load_file(tmp_path / WEIGHTS)
  assert {array.dtype.name for array in stored.values()} == {"float16"}
  _, loaded = diffusers.load_unet(tmp_path)
  _same(loaded, jax.tree.map(lambda x: np.float32(np.float16(x)), params))
  with pytest.raises(errors.InputError, match="'int8'; expected 'float32' or"):
    diffusers.save_unet(tmp_path, unet, params, dtype="int8")


def test_load_unet_and_autoencoder_open_a_pipeline(folder, tmp_path):
  folder("sd2").rename(tmp_path / "unet")
  folder("autoencoder").rename(tmp_path / "vae")
  assert diffusers.load_unet(tmp_path)[0].context_width == 12
  assert diffusers.load_autoencoder(tmp_path)[0].latent_channels == 3


def test_load_autoencoder_accepts_old_attention_names(folder, arrays):
  old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
  changes = {}
  for name, array in arrays("autoencoder").items():
    for new_name, old_name in old.items():
      if f"attentions.0.{new_name}." in name:
        changes[name] = None
        changes[name.replace(f".{new_name}.", f".{old_name}.")] = array
  # Weight and bias of four layers, in encoder and decoder, under two names.
  assert len(changes) == 32
  _, params = diffusers.load_autoencoder(folder("autoencoder", changes=changes))
  for part in ("encoder", "decoder"):
    layer = params[part]["mid_block"]["attentions_0"]["to_out_0"]
    name = f"{part}.mid_block.attentions.0.to_out.0.weight"
    np.testing.assert_array_equal(layer["kernel"].T, arrays("autoencoder")[name])


def test_load_unet_lists_wrong_weights_by_kind(folder):
  place = folder(
    "classes",
    changes={
      "conv_in.bias": None,
      "conv_out.bias": np.zeros(2, np.float32),
      "nonsense": np.zeros(1, np.float32),
      "down_blocks.0.resnets.7.conv1.weight": np.zeros(1, np.float32),
    },
  )
  with pytest.raises(errors.InputError) as caught:
    diffusers.load_unet(place)
  reported = str(caught.value)
  assert "1 missing: conv_in.bias" in reported
  assert "2 unknown: down_blocks.0.resnets.7.conv1.weight, nonsense" in reported
  assert "1 of a wrong shape: conv_out.bias [2] for [1]" in reported


@pytest.mark.parametrize(
  ("change", "reported"),
  [
    ({"class_embed_type": "timestep"}, "class_embed_type='timestep'"),
    ({"num_class_embeds": 5}, "num_class_embeds=5"),
    ({"addition_embed_type": "text"}, "addition_embed_type='text'"),
    ({"center_input_sample": True}, "center_input_sample=True"),
    ({"flip_sin_to_cos": False}, "flip_sin_to_cos=False"),
    ({"freq_shift": 1}, "freq_shift=1"),
    ({"norm_eps": 1e-6}, "norm_eps=1e-06"),
    ({"act_fn": "gelu"}, "act_fn='gelu'"),
    ({"only_cross_attention": [True, False]}, "only_cross_attention=[True, False]"),
    ({"mid_block_type": None}, "mid_block_type=None"),
    ({"layers_per_block": [1, 2]}, "layers_per_block=[1, 2]"),
    ({"cross_attention_dim": [12, 13]}, "cross_attention_dim=[12, 13]"),
    ({"attention_head_dim": [2, None]}, "attention_head_dim=[2, None]"),
    ({"time_embedding_dim": 9}, "time_embedding_dim=9"),
    ({"resnet_time_scale_shift": "film"}, "resnet_time_scale_shift='film'"),
    ({"up_block_types": ["UpBlock2D"] * 2}, "up_block_types="),
    ({"from_a_later_version": 3}, "from_a_later_version=3"),
    ({"_class_name": "UNet2DModel"}, "a model of class 'UNet2DModel'"),
  ],
)
def test_load_unet_names_an_unsupported_option(change, reported, folder):
  with pytest.raises(errors.InputError) as caught:
    diffusers.load_unet(folder("sd2", config=change))
  assert reported in str(caught.value)


@pytest.mark.parametrize(
  ("change", "reported"),
  [
    ({"latents_mean": [0.5]}, "latents_mean=[0.5]"),
    ({"use_quant_conv": False}, "use_quant_conv=False"),
    ({"down_block_types": ["DownEncoderBlock2D"]}, "for 2 levels"),
    ({"_class_name": "VQModel"}, "expected 'AutoencoderKL'"),
  ],
)
def test_load_autoencoder_refuses_another_kind(change, reported, folder):
  with pytest.raises(errors.InputError) as caught:
    diffusers.load_autoencoder(folder("autoencoder", config=change))
  assert reported in str(caught.value)


def test_load_unet_accepts_one_value_for_all_levels(folder):
  change = {"layers_per_block": [1, 1], "only_cross_attention": [False, False]}
  unet, _ = diffusers.load_unet(folder("sd2", config=change))
  assert unet.num_layers == 1


@pytest.mark.parametrize(
  ("change", "reported"),
  [
    ({"query_positions": True}, "query_positions=True"),
    (
      {"context_streams": (StreamSpec(name="map", num_tokens=1, width=6),)},
      "context_streams=",
    ),
  ],
)
def test_save_unet_refuses_a_network_unknown_to_diffusers(
  change, reported, own, tmp_path
):
  unet, params = own
  with pytest.raises(errors.InputError) as caught:
    diffusers.save_unet(tmp_path / "new", unet.clone(**change), params)
  assert reported in str(caught.value)
  assert not (tmp_path / "new").exists()


def test_save_unet_and_autoencoder_refuse_other_parameters(own, tmp_path):
  unet, params = own
  params = {**params, "extra": {"bias": np.zeros(1)}}
  del params["conv_in"]
  with pytest.raises(errors.InputError, match=r"2 missing: conv_in.bias, .* 1 unknown"):
    diffusers.save_unet(tmp_path / "new", unet, params)
  with pytest.raises(errors.InputError, match="missing"):
    diffusers.save_autoencoder(tmp_path / "new", AutoencoderKL(), params)
  assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
  "config", [{"latent_channels": "4"}, {"norm_num_groups": "8"}, {"out_channels": {}}]
)
def test_load_autoencoder_refuses_values_of_a_wrong_type(folder, config):
  place = folder("autoencoder", config=config)
  with pytest.raises(errors.InputError, match=r"config\.json"):
    diffusers.load_autoencoder(place)
