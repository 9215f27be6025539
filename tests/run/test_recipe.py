"""Every wrong value of a config is reported when it is built, in one line."""

import jax
import pytest

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.run import recipe
from cxr_diffusion_jax.training import experiment as experiment_lib


def test_recipe_has_typed_objects(build):
  experiment = build(model__dtype="bfloat16", conditioning__drop_rate=0.2)
  assert experiment.recipe.latent_shape == (16, 16, 4)
  assert experiment.train.num_steps == 6
  assert experiment.config["model"]["block_channels"] == [8]
  objective = experiment.make_objective({})
  assert objective.drop_rates == (0.2,)
  shapes = jax.eval_shape(experiment.recipe.init_fn, jax.random.key(0))
  assert {leaf.dtype.name for leaf in jax.tree.leaves(shapes)} == {"float32"}


def test_recipe_gives_the_codec_the_statistics_of_the_records(build):
  statistics = {"haar": {"1": {"mean": [1.0, 2, 3, 4], "std": [5.0, 6, 7, 8]}}}
  codec = build().recipe.make_codec(statistics)
  assert codec.mean == (1, 2, 3, 4)
  assert codec.std == (5, 6, 7, 8)


def test_recipe_shifts_training_times_by_the_first_mode(build, dataset):
  experiment = build(codec__levels=1)
  statistics = {**dataset.card.statistics, "modes": {"1": [4 * 150.0]}}
  assert experiment.make_objective(statistics).time_sampler.shift == 2
  statistics.pop("modes")
  assert experiment.make_objective(statistics).time_sampler.shift == 1
  assert min(dataset.card.statistics["modes"]["1"]) > 0


@pytest.mark.parametrize(
  ("key", "value", "message"),
  [
    ("seed", -1, "config.seed=-1; expected 0 to"),
    ("seed", 2**32, "config.seed=4294967296"),
    ("codec.name", "har", "config.codec.name='har'"),
    ("codec.levels", 6, "image size 32 with 6 Haar levels"),
    ("model.name", "vnet", "expected one of dit, edm2, unet"),
    ("model.dtype", "int7", "config.model.dtype='int7'"),
    ("conditioning.name", "elixr_x", "conditioning path 'elixr_x'"),
    ("conditioning.drop_rate", 1.5, "config.conditioning.drop_rate"),
    ("diffusion.prediction", "x1", "x1"),
    ("diffusion.schedule.name", "line", "line"),
    ("optimizer.schedule", "linear", "config.optimizer.schedule='linear'"),
    ("optimizer.accumulation", 0, "config.optimizer.accumulation=0"),
    ("optimizer.accumulation", 3, "config.train.batch_size=8; expected a multiple"),
    ("train.num_steps", 0, "config.train.num_steps=0; expected 1 or more"),
    ("train.keep_every", -1, "config.train.keep_every=-1; expected 0 or more"),
    ("train.ema_decay", 1.0, "config.train.ema_decay=1.0"),
    ("sample.sampler", "rk4", "sampler 'rk4'; expected one of"),
    ("sample.num_steps", 0, "config.sample.num_steps=0"),
    ("parallel.num_devices", 99, "config.parallel.num_devices=99"),
    ("data.missing", "skip", "config.data.missing 'skip'; expected one of drop, error"),
    ("data.image_size", 4, "config.data.image_size=4"),
  ],
)
def test_build_refuses_wrong_values(key, value, message, small):
  with pytest.raises(errors.InputError) as caught:
    experiment_lib.build(small.config(**{key.replace(".", "__"): value}))
  assert message in str(caught.value)


NAN = float("nan")


def _shapes(config):
  experiment = experiment_lib.build(config)
  return jax.eval_shape(experiment.recipe.init_fn, jax.random.key(0))


@pytest.mark.parametrize(
  ("key", "values"),
  [
    ("optimizer.learning_rate", (-1e-4, NAN)),
    ("optimizer.warmup_steps", (-1,)),
    ("optimizer.final_rate", (-0.1, 2.0, NAN)),
    ("optimizer.weight_decay", (-0.1, NAN)),
    ("optimizer.clip_norm", (-1.0, NAN)),
    ("optimizer.b1", (1.0, 1.5, NAN)),
    ("optimizer.b2", (1.0, -0.5)),
    ("codec.levels", (-1,)),
    ("codec.loss_power", (NAN,)),
    ("diffusion.time_sampler.std", (0.0, -1.0, NAN)),
    ("diffusion.time_sampler.mean", (NAN,)),
    ("dit.dropout", (1.0, 1.5, -0.5, NAN)),
    ("dit.depth", (0,)),
    ("dit.width", (0,)),
    ("dit.patch_size", (0,)),
    ("dit.mlp_ratio", (0.0, -1.0, 1e-3, NAN)),
    ("unet.dropout", (1.0,)),
    ("unet.head_width", (0,)),
    ("unet.context_width", (0,)),
    ("unet.norm_groups", (0,)),
    ("edm2.dropout", (1.0,)),
    ("edm2.head_width", (0,)),
  ],
)
def test_build_refuses_values_out_of_range(key, values, small):
  *sections, name = key.split(".")
  for value in values:
    config = small.config().to_dict()
    if sections[0] in ("dit", "unet", "edm2"):
      config["model"] = {"name": sections[0], name: value}
    else:
      section = config
      for part in sections:
        section = section[part]
      section[name] = value
    with pytest.raises(errors.InputError) as caught:
      _shapes(config)
    assert f".{name}={value}; expected" in str(caught.value)
    assert str(caught.value).startswith("config.")


@pytest.mark.parametrize(
  ("section", "key", "message"),
  [
    ("train", "num_step", r"config.train.num_step; .* did you mean num_steps"),
    ("model", "num_layer", "did you mean num_layers"),
    ("model", "out_channels", "unknown key config.model.out_channels"),
    ("codec", "level", "did you mean levels"),
    ("conditioning", "pool", "did you mean pooled"),
    ("diffusion", "weightng", "did you mean weighting"),
    ("optimizer", "beta1", "unknown key config.optimizer.beta1"),
    ("parallel", "zz", r"config.parallel.zz; expected one of data, fsdp"),
    ("sample", "steps", "did you mean num_steps"),
    ("data", "image_sise", "did you mean image_size"),
  ],
)
def test_build_suggests_the_nearest_key(section, key, message, small):
  config = small.config()
  with config.unlocked():
    config[section][key] = 1
  with pytest.raises(errors.InputError, match=message):
    experiment_lib.build(config)


@pytest.mark.parametrize("name", ["train", "diffusion"])
def test_build_names_a_missing_section(name, small):
  plain = small.config().to_dict()
  del plain[name]
  with pytest.raises(errors.InputError, match=f"a config without {name}"):
    experiment_lib.build(plain)
  plain = small.config().to_dict()
  del plain["diffusion"]["schedule"]
  with pytest.raises(errors.InputError, match=r"config.diffusion without schedule"):
    experiment_lib.build(plain)


def test_build_names_a_missing_argument(small):
  plain = small.config().to_dict()
  del plain["optimizer"]["learning_rate"]
  with pytest.raises(errors.InputError, match=r"config.optimizer: .*learning_rate"):
    experiment_lib.build(plain)


def test_conditioner_section_needs_no_encoder_for_known_shapes():
  config = {"conditioning": {"name": "clip_text", "encoder": "no/such-model"}}
  shapes = {"clip_text": (77, 8), "findings": (3,)}
  conditioner, _ = recipe.conditioner_section(config, shapes)
  assert conditioner.needs.specs[0].shape == (77, 8)
  # A config of an earlier version: masked after the prompt's end, as it was trained.
  assert conditioner.needs.columns == ("clip_text",)
  config["conditioning"] = {"name": "findings"}
  conditioner, _ = recipe.conditioner_section(config, shapes)
  assert conditioner.streams[0].num_tokens == 3 + 3


def test_conditioner_section_counts_the_sources_of_a_joined_dataset():
  config = {
    "conditioning": {"name": "findings", "source_token": True},
    "data": {"source": "nih+chexpert+nih"},
  }
  conditioner, _ = recipe.conditioner_section(config, {"findings": (3,)})
  (stream,) = conditioner.streams
  assert (stream.num_tokens, stream.width) == (3 + 4, 2 * 3 + 15 + 3)
  config["data"]["source"] = "nih"
  with pytest.raises(errors.InputError, match=r"source=nih; expected several sources"):
    recipe.conditioner_section(config, {"findings": (3,)})
