"""A run goes on only from checkpoints that taught the same thing."""

import dataclasses

import pytest

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.run import card, compatibility

CONFIG = {
  "seed": 0,
  "train": {"num_steps": 10, "log_every": 1},
  "optimizer": {"schedule": "cosine", "learning_rate": 0.1},
}


def _changed(section: str, **values):
  return {**CONFIG, section: {**CONFIG[section], **values}}


def test_what_only_tells_may_change():
  compatibility.check_config(CONFIG, _changed("train", log_every=7))
  assert compatibility.flatten(CONFIG)["train.log_every"] == 1


def test_differing_keys_are_named_with_both_values():
  other = _changed("optimizer", learning_rate=0.2)
  with pytest.raises(
    errors.InputError, match=r"optimizer.learning_rate \(0.1 there, 0.2 here\)"
  ):
    compatibility.check_config(CONFIG, other)


def test_a_constant_rate_lets_a_run_be_made_longer():
  constant = _changed("optimizer", schedule="constant")
  longer = {**constant, "train": {"num_steps": 20, "log_every": 1}}
  compatibility.check_config(constant, longer)
  with pytest.raises(errors.InputError, match="num_steps"):
    compatibility.check_config(CONFIG, _changed("train", num_steps=20))


def test_check_data_refuses_other_data_naming_what_differs():
  column = card.ColumnCard(encoder="ELIXR-C", standin=False, fingerprint="b" * 64)
  saved = card.DatasetCard(
    fingerprint="a" * 64,
    kind="real images",
    phantom=False,
    vocabulary=("Effusion",),
    image_size=64,
    resize="crop",
    num_rows={"train": 3},
    statistics={},
    columns={"elixrc": column},
  )
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
