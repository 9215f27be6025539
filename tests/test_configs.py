"""Every config builds at every size, and its networks have the sizes it says."""

import importlib.util
import itertools
import pathlib
import re

import jax
import pytest

from configs import default, training
from cxr_diffusion_jax import errors
from cxr_diffusion_jax.conditioning import base as conditioning
from cxr_diffusion_jax.run import recipe as recipe_lib
from cxr_diffusion_jax.training import experiment as experiment_lib

# Training images of NIH ChestX-ray14: 86,524 of train_val less 5 % of the patients.
NIH = 82_200

FOLDER = pathlib.Path(__file__).parents[1]


def _tables() -> dict[str, dict[str, str]]:
  """docs/networks.md: size -> column -> cell, of both tables of sizes."""
  text = (FOLDER / "docs" / "networks.md").read_text("utf-8")
  rows = {}
  for table in re.findall(r"^\| size \|.*\n(?:\|.*\n)+", text, re.MULTILINE):
    head, _, *lines = (
      [c.strip(" `") for c in x.split("|")[1:-1]] for x in table.splitlines()
    )
    for cells in lines:
      rows.setdefault(cells[0], {}).update(zip(head, cells, strict=True))
  return rows


DOCS = _tables()
# `sd15_finetune` is tested where its weights are: tests/training/test_pretrained.py;
# `autoencoder` is no denoiser: tests/training/autoencoder/test_settings.py.
CONFIGS = sorted(
  path.stem
  for path in (FOLDER / "configs").glob("*.py")
  if path.stem
  not in ("autoencoder", "default", "networks", "sd15_finetune", "training")
)


def _load(name: str):
  path = FOLDER / "configs" / f"{name}.py"
  spec = importlib.util.spec_from_file_location(f"config_{name}", path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def test_configs_exist_for_every_path():
  assert set(CONFIGS) == {*conditioning.names(), "phantom"}


@pytest.mark.parametrize(
  ("name", "size"),
  [
    *itertools.product(CONFIGS, ("tiny", "small", "base", "dit_tiny")),
    # What takes seconds to trace, for one path; all paths have the same, see below.
    *(
      ("elixr_c", size)
      for size in DOCS
      if "_" in size and size not in ("kl_base", "radit_l")
    ),
  ],
)
def test_config_builds_and_has_its_stated_size(name, size):
  config = _load(name).get_config(f"elixr_c,{size}" if name == "phantom" else size)
  experiment = experiment_lib.build(config)
  if size == "base" and name != "elixr_c":
    # Seconds to trace, and the same network but for its context.
    return
  # Shapes alone: nothing of this is allocated.
  shapes = jax.eval_shape(experiment.recipe.init_fn, jax.random.key(0))
  millions = sum(leaf.size for leaf in jax.tree.leaves(shapes)) / 1e6
  if name == "elixr_c":
    assert f"{millions:,.1f} M" == DOCS[size]["parameters"]
  codec = experiment.recipe.make_codec({})
  assert codec.latent_shape(config.data.image_size) == experiment.recipe.latent_shape
  path = "elixr_c" if name == "phantom" else name
  assert config.conditioning.name == path
  assert bool(experiment.recipe.conditioner.needs.columns) == (path != "findings")


@pytest.mark.parametrize("name", CONFIGS)
def test_config_is_short_and_states_its_command(name, repository):
  text = (repository / "configs" / f"{name}.py").read_text()
  assert len(text.splitlines()) <= 25
  doc = _load(name).__doc__
  assert f"--config configs/{name}.py" in doc
  for text in ("CPU cores", "minutes", "docs/results/"):
    assert text in doc


@pytest.mark.parametrize("name", CONFIGS)
def test_config_refuses_an_unknown_size(name):
  choice = "findings,huge" if name == "phantom" else "huge"
  with pytest.raises(ValueError, match="'huge'; expected one of tiny, small, base"):
    _load(name).get_config(choice)


@pytest.mark.parametrize("path", conditioning.names())
def test_configs_of_phantoms_exist_for_every_path_and_download_nothing(path):
  config = _load("phantom").get_config(path)
  plain = _load(path).get_config("tiny")
  assert config.conditioning.name == path
  assert config.conditioning.get("encoder", "standin") == "standin"
  assert config.data.standin
  with pytest.raises(ValueError, match="expected PATH or PATH,SIZE"):
    _load("phantom").get_config(f"{path}x")
  # All but condition and data is as everywhere: runs can be compared.
  for section in ("model", "diffusion", "optimizer", "codec"):
    assert config[section] == plain[section]


@pytest.mark.parametrize("size", DOCS)
def test_configs_of_paths_differ_only_in_their_condition(size):
  recipes = [_load(path).get_config(size).to_dict() for path in conditioning.names()]
  for recipe in recipes:
    recipe.pop("conditioning")
    assert recipe == recipes[0]


@pytest.mark.parametrize("name", CONFIGS)
def test_config_has_no_unused_key(name):
  """`build` refuses those; here, that it does so for each section of this config."""
  size = "elixr_c,tiny" if name == "phantom" else "tiny"
  config = _load(name).get_config(size)
  sections = [key for key, value in config.items() if hasattr(value, "items")]
  assert sorted(sections) == sorted(recipe_lib.SECTIONS)
  for section in sections:
    spoilt = _load(name).get_config(size).to_dict()
    spoilt[section]["nonsense"] = 1
    with pytest.raises(errors.InputError, match=rf"config\.{section}\.nonsense"):
      experiment_lib.build(spoilt)


@pytest.mark.parametrize(
  ("size", "latent"),
  [("tiny", (8, 8, 4)), ("small", (32, 32, 4)), ("base", (64, 64, 4))],
)
def test_configs_of_latents_exist_at_every_size(size, latent):
  waves, config = (_load("elixr_c").get_config(one) for one in (size, f"kl_{size}"))
  assert experiment_lib.build(config).recipe.latent_shape == latent
  assert config.codec.name == "kl"
  sections = {name for name in config if config[name] != waves[name]}
  # `small` has attention at the same sides, which are at other levels then; `base` is
  # Stable Diffusion's network, whose queries have no positions.
  assert sections == ({"codec"} if size == "tiny" else {"codec", "model"})


def test_docs_list_every_recipe():
  text = (FOLDER / "docs" / "networks.md").read_text("utf-8").split("## Objectives")[1]
  assert tuple(re.findall(r"^\| `(\w+)`", text, re.MULTILINE)) == default.RECIPES


def test_docs_list_every_size_and_what_its_training_costs():
  assert DOCS.keys() - {size for size in DOCS if size.startswith("kl_")} == {
    *default.SCALES
  }
  for size, row in DOCS.items():
    config = default.get_config(size)
    images = config.train.num_steps * config.train.batch_size
    flops = float(row["training"].removesuffix(" G").replace(",", "")) * 1e9 * images
    assert {name: row[name] for name in ("batch", "steps", "rate", "epochs")} == {
      "batch": str(config.train.batch_size),
      "steps": f"{config.train.num_steps:,}",
      "rate": f"{config.optimizer.learning_rate:g}",
      "epochs": "phantoms" if images < NIH else f"{images / NIH:.0f}",
    }, size
    assert row["FLOPs"] == f"{flops:.1e}".replace("e+", "e"), size


def test_learning_rate_follows_the_square_root_of_the_batch():
  assert training.scaled(2e-4, 128, 512) == 4e-4
  for size in ("small", "base", "dit_s", "dit_xl", "radit_l"):
    config = default.get_config(size)
    network = "dit" if "dit" in size else f"unet_{size}"
    rate, batch = training.PUBLISHED[network]
    expected = rate * (config.train.batch_size / batch) ** 0.5
    assert config.optimizer.learning_rate == pytest.approx(expected, rel=0.02)


def test_no_size_trains_for_more_than_100_000_steps_or_320_epochs():
  for size in default.SCALES:
    train = default.get_config(size).train
    assert train.num_steps <= 100_000
    assert train.num_steps * train.batch_size <= 320 * NIH
