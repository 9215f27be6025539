"""A run goes on only from checkpoints that taught the same thing."""

import dataclasses
import types

import pytest

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.run import card, compatibility

CONFIG = {
  "seed": 0,
  "train": {"num_steps": 10, "log_every": 1, "power_ema": []},
  "optimizer": {"schedule": "cosine", "learning_rate": 0.1},
  "data": {"root": "tree", "num_workers": 0},
  "parallel": {"data": -1, "fsdp": 1},
  "conditioning": {"encoder": "clip"},
  "model": {"pretrained": "unet"},
}


def _changed(**values):
  config = {
    key: dict(value) if isinstance(value, dict) else value
    for key, value in CONFIG.items()
  }
  for key, value in values.items():
    section, name = key.split("__")
    config[section][name] = value
  return config


@pytest.mark.parametrize(
  ("key", "value", "line"),
  [
    ("train__log_every", 7, "config.train.log_every: 1 -> 7"),
    ("train__keep_every", 100, "config.train.keep_every: unset -> 100"),
    ("train__patience", 3, "config.train.patience: unset -> 3"),
    ("data__num_workers", 4, "config.data.num_workers: 0 -> 4"),
    ("data__root", "moved/tree", "config.data.root: tree -> moved/tree"),
    ("parallel__fsdp", 2, "config.parallel.fsdp: 1 -> 2"),
    ("conditioning__encoder", "b", "config.conditioning.encoder: clip -> b"),
    ("model__pretrained", "b", "config.model.pretrained: unet -> b"),
    ("train__num_steps", 20, "config.train.num_steps: 10 -> 20"),
  ],
)
def test_check_config_allows_and_names_what_does_not_change_what_is_learned(
  key, value, line
):
  lines = compatibility.check_config(CONFIG, _changed(**{key: value}))
  assert lines[0] == line


def test_check_config_says_where_a_longer_cosine_ends():
  lines = compatibility.check_config(CONFIG, _changed(train__num_steps=20))
  assert lines[1:] == ["the cosine learning rate now ends at step 20"]
  constant = _changed(optimizer__schedule="constant")
  longer = _changed(optimizer__schedule="constant", train__num_steps=20)
  assert len(compatibility.check_config(constant, longer)) == 1


def test_check_config_refuses_to_add_or_remove_published_weights():
  without = _changed(model__pretrained="")
  for saved, wanted in ((CONFIG, without), (without, CONFIG)):
    with pytest.raises(errors.InputError, match=r"model\.pretrained"):
      compatibility.check_config(saved, wanted)


def test_check_config_accepts_an_older_config_and_tuples():
  assert compatibility.check_config(CONFIG, _changed(train__init_from="")) == []
  assert compatibility.check_config(CONFIG, _changed(train__power_ema=())) == []
  assert (
    compatibility.check_config(CONFIG, _changed(conditioning__all_states=False)) == []
  )
  with pytest.raises(errors.InputError, match=r"all_states \(False there, True here\)"):
    compatibility.check_config(CONFIG, _changed(conditioning__all_states=True))


def test_check_config_refuses_other_learning_with_both_values_and_a_way_on():
  other = _changed(optimizer__learning_rate=0.2, train__init_from="runs/a")
  with pytest.raises(errors.InputError) as caught:
    compatibility.check_config(CONFIG, other, "runs/b")
  message = str(caught.value)
  assert "optimizer.learning_rate (0.1 there, 0.2 here)" in message
  assert "train.init_from ( there, runs/a here)" in message
  assert "--config.train.init_from=runs/b" in message


def test_check_autoencoder_refuses_another_one():
  def autoencoder(description: str) -> types.SimpleNamespace:
    return types.SimpleNamespace(name="vae", description=description)

  latent = card.ColumnCard(encoder="vae (abc)", standin=False, fingerprint="f")
  saved = _card(latents={"latent": latent})
  compatibility.check_autoencoder(saved, autoencoder("vae (abc)"))
  compatibility.check_autoencoder(saved, None)
  compatibility.check_autoencoder(_card(), autoencoder("vae (xyz)"))
  with pytest.raises(errors.InputError, match=r"vae \(xyz\).* vae \(abc\)"):
    compatibility.check_autoencoder(saved, autoencoder("vae (xyz)"))


def _card(**changes) -> card.DatasetCard:
  values = {
    "fingerprint": "a" * 64,
    "kind": "real images",
    "phantom": False,
    "vocabulary": ("Effusion",),
    "image_size": 64,
    "resize": "crop",
    "num_rows": {"train": 3},
    "statistics": {},
    "columns": {},
  }
  return card.DatasetCard(**{**values, **changes})


def test_check_data_refuses_other_data_naming_what_differs():
  column = card.ColumnCard(encoder="ELIXR-C", standin=False, fingerprint="b" * 64)
  saved = _card(columns={"elixrc": column})
  compatibility.check_data(saved, saved)
  one, other = (
    dataclasses.replace(saved, fingerprints={"ids": "e" * 32, "labels": labels * 32})
    for labels in ("a", "c")
  )
  with pytest.raises(errors.InputError, match="other data: labels aaaa"):
    compatibility.check_data(one, other)
  # A card of an earlier version has no hashes of content: counts and statistics tell.
  compatibility.check_data(saved, one)
  with pytest.raises(errors.InputError, match="other data: train 3 there, 4 here"):
    compatibility.check_data(saved, dataclasses.replace(one, num_rows={"train": 4}))
  standin = dataclasses.replace(column, encoder="stand-in CLIP", fingerprint="d" * 64)
  with pytest.raises(errors.InputError, match=r"ELIXR-C .* there.*stand-in CLIP"):
    compatibility.check_data(
      saved, dataclasses.replace(saved, columns={"elixrc": standin})
    )
