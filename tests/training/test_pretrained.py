"""A run begins from a published UNet: what fits is used, what does not is reported."""

import dataclasses
import importlib
import json
import pathlib
import shutil
import types

from flax import traverse_util
import jax
import numpy as np
import pytest

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.interop import diffusers
from cxr_diffusion_jax.models.denoisers.unet import UNet
from cxr_diffusion_jax.training import denoiser_trainer, loop
from cxr_diffusion_jax.training import experiment as experiment_lib
from cxr_diffusion_jax.types import TokenStream

# Of the small run's stream: ELIXR-C's pooled map.
WIDTH = 1376


@pytest.fixture
def save(tmp_path):
  """Writes a UNet of the small run: `folder, params = save(context_width=7)`."""

  def write(channels: int = 4, **changes):
    unet = UNet(
      out_channels=channels,
      block_channels=(8,),
      num_layers=1,
      attention=(False,),
      num_heads=2,
      context_width=WIDTH,
      norm_groups=4,
      time_conditioning="scale_shift",
    ).clone(**changes)
    rng = np.random.default_rng(0)
    params = jax.tree.map(
      lambda leaf: np.float32(rng.normal(size=leaf.shape)),
      diffusers.unet_shapes(unet, channels),
    )
    diffusers.save_unet(tmp_path / "pretrained", unet, params)
    return tmp_path / "pretrained", params

  return write


@pytest.fixture
def build_from(small):
  """Builds the small experiment from a folder of weights."""

  def build(folder, **changes) -> experiment_lib.Experiment:
    plain = small.config(**changes).to_dict()
    plain["model"] |= {"pretrained": str(folder), "query_positions": False}
    return experiment_lib.build(plain)

  return build


def _taken(experiment):
  shapes = jax.eval_shape(experiment.recipe.init_fn, jax.random.key(0))
  fresh = traverse_util.flatten_dict(shapes)
  taken = experiment.pretrained.load(shapes)
  assert taken.keys() <= fresh.keys()
  return taken, fresh.keys() - taken.keys()


def test_pretrained_run_starts_from_the_weights_of_the_folder(save, build_from):
  folder, params = save()
  experiment = build_from(folder)
  state = denoiser_trainer.make_programs(experiment, {}).init()
  # One stream goes to cross-attention as it is: the tree is the published one.
  for ours in (state.params, state.ema_params):
    assert jax.tree.structure(ours) == jax.tree.structure(params)
    jax.tree.map(np.testing.assert_array_equal, ours, params)
  assert int(state.step) == 0


def test_pretrained_pipeline_of_another_prediction_is_refused(save, build_from):
  folder, _ = save()
  pipeline = folder.parent / "pipeline"
  shutil.copytree(folder, pipeline / "unet")
  scheduler = pipeline / "scheduler" / "scheduler_config.json"
  scheduler.parent.mkdir()
  for content, prediction in [
    ({"prediction_type": "v_prediction"}, "v"),
    ({"_class_name": "DDIMScheduler"}, "epsilon"),
    ({"_class_name": "FlowMatchEulerDiscreteScheduler"}, "velocity"),
  ]:
    scheduler.write_text(json.dumps(content))
    assert diffusers.read_prediction(pipeline) == prediction
  pretrained = dataclasses.replace(build_from(pipeline).pretrained, prediction="x0")
  with pytest.raises(errors.InputError, match=r"=x0, but .* for velocity; .*set it"):
    pretrained.check()
  # Named itself, the network is free.
  assert diffusers.read_prediction(pipeline / "unet") is None
  scheduler.write_text('{"prediction_type": "score"}')
  with pytest.raises(errors.InputError, match="prediction_type='score'; expected"):
    pretrained.check()
  scheduler.write_text('{"prediction_type": ["score"]}')
  with pytest.raises(errors.InputError, match="prediction_type="):
    diffusers.read_prediction(pipeline)


def test_pretrained_stream_of_another_width_has_new_cross_attention(save, build_from):
  folder, params = save(context_width=7)
  taken, fresh = _taken(build_from(folder))
  assert {path[:4] for path in fresh} == {
    ("mid_block", "attentions_0", "transformer_blocks_0", "attn2")
  }
  # All of it: the old queries belong to the old keys.
  assert {path[4] for path in fresh} == {"to_q", "to_k", "to_v", "to_out_0"}
  flat = traverse_util.flatten_dict(params)
  for path, array in taken.items():
    np.testing.assert_array_equal(array, flat[path])


def test_pretrained_with_other_channels_has_new_first_and_last_layers(save, build_from):
  folder, _ = save(channels=5)
  _, fresh = _taken(build_from(folder))
  assert {path[0] for path in fresh} == {"conv_in", "conv_out"}
  assert len(fresh) == 4


def test_pretrained_rgb_becomes_grey(save, build_from):
  folder, params = save(channels=3)
  taken, fresh = _taken(build_from(folder, codec={"name": "pixel"}))
  assert not fresh
  grey = np.float32(0.3)
  for part in ("kernel", "bias"):
    assert taken["conv_out", part].shape[-1] == 1
    np.testing.assert_allclose(
      taken["conv_out", part][..., 0], params["conv_out"][part].mean(axis=-1), rtol=1e-6
    )
  np.testing.assert_allclose(
    (grey * taken["conv_in", "kernel"]).sum(axis=2),
    (grey * params["conv_in"]["kernel"]).sum(axis=2),
    rtol=1e-5,
    atol=1e-6,
  )


def test_pretrained_with_several_streams_has_a_new_embedder(save, build_from):
  folder, _ = save(context_width=8)
  experiment = build_from(folder)
  network = experiment.pretrained.network
  streams = [
    dataclasses.replace(experiment.recipe.conditioner.streams[0], name=name)
    for name in "ab"
  ]
  network = network.clone(context_streams=tuple(streams), context_width=8, pooled=False)
  context = [jax.numpy.zeros((1, s.num_tokens, s.width)) for s in streams]
  context = tuple(
    TokenStream(tokens=x, mask=jax.numpy.ones(x.shape[:2], bool)) for x in context
  )
  shapes = jax.eval_shape(
    network.init,
    jax.random.key(0),
    jax.numpy.zeros((1, *experiment.recipe.latent_shape)),
    jax.numpy.zeros((1,)),
    context,
  )["params"]
  taken = dataclasses.replace(experiment.pretrained, network=network).load(shapes)
  fresh = traverse_util.flatten_dict(shapes).keys() - taken.keys()
  assert {path[0] for path in fresh} == {"context_embedder"}


def test_pretrained_run_resumes_without_the_folder(save, build_from, dataset, tmp_path):
  folder, params = save()
  writer = types.SimpleNamespace(
    write_scalars=lambda step, scalars: None, flush=lambda: None
  )

  # Everything but the updates, which take seconds to compile.
  def train_step(state, batch):
    return state.replace(step=state.step + 1), {"loss": 0.0, "grad_norm": 0.0}

  def validation_step(params, batch):
    return {"loss": 1.0, "loss_unconditional": 1.0, "count": 1}

  for num_steps in (2, 3):
    trainer = denoiser_trainer.make(
      build_from(folder, train__num_steps=num_steps), dataset
    )
    idle = dataclasses.replace(
      trainer.programs, train_step=train_step, validation_step=validation_step
    )
    trainer = dataclasses.replace(trainer, programs=idle)
    outcome = loop.train(trainer, tmp_path / "run", writer=writer)
    assert int(outcome.state.step) == num_steps
    jax.tree.map(np.testing.assert_array_equal, outcome.state.params, params)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.parametrize(
  ("change", "reported"),
  [
    ({"num_heads": 4}, "num_heads=2; expected num_heads=4, as there"),
    ({"norm_groups": 2}, "norm_groups=4; expected norm_groups=2"),
    ({"time_conditioning": "additive"}, "expected time_conditioning='additive'"),
    ({"block_channels": (8, 8), "attention": (True, False)}, "block_channels=(8, 8)"),
  ],
)
def test_pretrained_refuses_another_network(change, reported, save, build_from):
  folder, _ = save(**change)
  experiment = build_from(folder)
  with pytest.raises(errors.InputError) as caught:
    experiment.pretrained.check()
  assert reported in str(caught.value)


def test_pretrained_is_refused_for_other_networks_than_unets(small):
  plain = small.config().to_dict()
  plain["model"] = {"name": "dit", "patch_size": 2, "depth": 1, "width": 16,
                    "num_heads": 2, "pretrained": "somewhere"}  # fmt: skip
  with pytest.raises(errors.InputError, match=r"config\.model\.name=unet, the only"):
    experiment_lib.build(plain)


@pytest.mark.parametrize(
  ("choice", "width", "num_streams"),
  [
    ("base", 768, None),
    ("tiny", 768, None),
    ("tiny,elixr_c", WIDTH, None),
    ("tiny,elixr_bc", 80, 2),
  ],
)
def test_pretrained_recipe_starts_from_stable_diffusion(choice, width, num_streams):
  module = importlib.import_module("configs.sd15_finetune")
  experiment = experiment_lib.build(module.get_config(choice))
  network = experiment.pretrained.network
  assert network.context_width == width
  streams = network.context_streams
  assert (None if streams is None else len(streams)) == num_streams
  # Of a prompt, it sees all 77 states, as Stable Diffusion was trained.
  of_prompts = experiment.recipe.conditioner.needs.columns == ("clip_states",)
  assert of_prompts == ("," not in choice)
  if choice == "base":
    shapes = jax.eval_shape(experiment.recipe.init_fn, jax.random.key(0))
    # Stable Diffusion 1.5's UNet, to the last one.
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == 859_520_964
    assert network.clone(remat=False, dtype=UNet.dtype) == UNet(pooled=False)
  text = pathlib.Path(module.__file__).read_text()
  assert len(text.splitlines()) <= 25
  assert "--config configs/sd15_finetune.py" in module.__doc__


def test_pretrained_recipe_has_no_unused_key():
  module = importlib.import_module("configs.sd15_finetune")
  for section in ("model", "codec", "optimizer", "train"):
    spoilt = module.get_config("tiny").to_dict()
    spoilt[section]["nonsense"] = 1
    with pytest.raises(errors.InputError, match=rf"config\.{section}\.nonsense"):
      experiment_lib.build(spoilt)
  with pytest.raises(ValueError, match="'huge'; expected one of tiny, small, base"):
    module.get_config("huge")


def test_pretrained_reports_a_missing_folder_before_preparing_data(run_main, tmp_path):
  ended = run_main(
    "main",
    "--config=configs/sd15_finetune.py:tiny",
    f"--config.model.pretrained={tmp_path / 'nowhere'}",
    f"--config.data.root={tmp_path / 'no-tree'}",
    f"--workdir={tmp_path / 'run'}",
  )
  assert "no config.json in" in ended.complaint
  assert "nowhere" in ended.complaint
