"""Runs of one recipe are runs of one path; whatever else differs is said."""

import dataclasses
import json
import pathlib
import types as python_types

import numpy as np
import pytest

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.conditioning import base
from cxr_diffusion_jax.evaluation.comparison import path_assessment, paths, primary
from cxr_diffusion_jax.run import run as run_lib

CONFIG = {
  "seed": 0,
  "conditioning": {"name": "elixr_c", "drop_rate": 0.1},
  "data": {"root": "nih-cxr", "image_size": 64},
  "optimizer": {"learning_rate": 1e-3},
  "sample": {"guidance": 1.5, "num_images": 8},
  "train": {"num_steps": 9, "keep": 2},
}


def _config(**changes) -> dict:
  plain = json.loads(json.dumps(CONFIG))
  for key, value in changes.items():
    section, _, name = key.partition("__")
    if name:
      plain[section][name] = value
    else:
      plain[section] = value
  return plain


@pytest.fixture
def opened(monkeypatch, tmp_path):
  """Opens paths of configs by the name of a folder; `steps` and records by name too."""

  def make(configs: dict, steps=None, records=None) -> list[paths.ConditioningPath]:
    def open_run(workdir, **_):
      print_ = (records or {}).get(workdir.name, "one")
      return python_types.SimpleNamespace(
        folder=workdir,
        checkpoint_step=(steps or {}).get(workdir.name, 9),
        choice="newest",
        ema_length=None,
        config=configs[workdir.name],
        seed=configs[workdir.name]["seed"],
        card=python_types.SimpleNamespace(fingerprint=print_),
        needs=base.Needs(),
      )

    monkeypatch.setattr(run_lib, "open_run", open_run)
    return paths.open_paths([tmp_path / name for name in configs])

  return make


def test_open_paths_groups_seeds(opened):
  text = {"name": "clip_text", "drop_rate": 0.1}
  result = opened({
    "c-0": _config(),
    "t-0": _config(conditioning=text),
    "c-1": _config(seed=1, data__root="moved", train__keep=9),
    "t-1": _config(conditioning=text, seed=1),
  })  # fmt: skip
  assert [path.name for path in result] == ["elixr_c", "clip_text"]
  assert [[run.folder.name for run in path.runs] for path in result] == [
    ["c-0", "c-1"],
    ["t-0", "t-1"],
  ]
  assert paths.warnings(result) == []


def test_open_paths_names_paths_of_one_kind_by_their_references(opened):
  seen = {"name": "elixr_c", "drop_rate": 0.1}
  patient, findings = (
    seen | {"reference": "same_patient"},
    seen | {"reference": "same_findings"},
  )
  result = opened({
    "p-0": _config(conditioning=patient),
    "f-0": _config(conditioning=findings),
    "p-1": _config(conditioning=patient, seed=1),
    "t": _config(conditioning={"name": "clip_text", "drop_rate": 0.1}),
  })  # fmt: skip
  assert [path.name for path in result] == [
    "elixr_c-same_patient",
    "elixr_c-same_findings",
    "clip_text",
  ]


def test_open_paths_names_equal_paths_by_folder(opened):
  result = opened({"a": _config(), "b": _config(optimizer__learning_rate=1.0)})
  assert [path.name for path in result] == ["a", "b"]
  reported = paths.warnings(result)
  assert (
    reported[0] == "Not an equal comparison: these differ: optimizer.learning_rate."
  )
  assert reported[1].startswith("A path has a single training run")


@pytest.mark.parametrize(
  ("changes", "steps", "words"),
  [
    ({"sample__guidance": 7.0}, {}, "these differ: sample.guidance"),
    ({}, {"b": 5}, "checkpoints of different steps: elixr_c 9, clip_text 5"),
    ({"seed": 3}, {}, "Training seeds differ"),
    ({"drop_rate": 0.3}, {}, "dropping the condition differ: elixr_c 0.1, clip_text 0"),
  ],
)
def test_warnings_name_inequalities(changes, steps, words, opened):
  rate = changes.pop("drop_rate", 0.1)
  other = _config(conditioning={"name": "clip_text", "drop_rate": rate}, **changes)
  reported = paths.warnings(opened({"a": _config(), "b": other}, steps))
  assert any(words in sentence for sentence in reported)


def test_differing_ignores_free_keys():
  configs = {"a": _config(), "b": _config(data__root="x", sample__num_images=1)}
  assert paths.differing(configs) == {}
  configs["b"]["conditioning"]["name"] = "clip_text"
  assert paths.differing(configs) == {
    "conditioning.name": {"a": "'elixr_c'", "b": "'clip_text'"}
  }


def test_warnings_name_different_numbers_of_runs(opened):
  other = _config(conditioning={"name": "clip_text", "drop_rate": 0.1})
  result = opened({"a": _config(), "a1": _config(seed=1), "b": other})
  sentences = paths.warnings(result)
  assert any("different numbers of training runs" in one for one in sentences)


def test_folder_of_refuses_runs_in_a_bucket():
  run = python_types.SimpleNamespace(
    folder="gs://bucket/run", checkpoint_step=9, ema_length=None
  )
  with pytest.raises(errors.InputError, match="gs://bucket/run is in a bucket"):
    path_assessment.folder_of(run)


def test_open_paths_refuses_different_records(opened):
  with pytest.raises(errors.InputError, match="runs on 2 different sets of records"):
    opened({"a": _config(), "b": _config()}, records={"b": "two"})


def test_open_paths_refuses_a_run_twice(tmp_path):
  twice = [tmp_path / "a", pathlib.Path(f"{tmp_path}/../{tmp_path.name}/a")]
  with pytest.raises(errors.InputError, match="one run named twice"):
    paths.open_paths(twice)


def _path(name: str, encoder: str, *, reference="self", source="image", standin=False):
  spec = base.ColumnSpec(name="column", encoder=encoder, source=source)
  column = python_types.SimpleNamespace(standin=standin)
  run = python_types.SimpleNamespace(
    needs=base.Needs(specs=(spec,) if encoder else (), reference=reference),
    card=python_types.SimpleNamespace(
      columns={"column": column} if encoder else {}, targets={}
    ),
  )
  return paths.ConditioningPath(name=name, runs=(run,), config={})


def test_unranked_names_a_path_that_reconstructs():
  own = _path("elixr_c", "elixr")
  other = _path("elixr_c", "elixr", reference="same_patient")
  text = _path("clip_text", "clip", source="text")
  key = ("fidelity", "frechet_distance", "rad_dino, class token", "all")
  assert paths.unranked([own, text], key)["elixr_c"].startswith("reconstruction")
  assert paths.unranked([other, text], key) == {}
  # Where all reconstruct, they are compared as such.
  assert paths.unranked([own, _path("clip_vision", "clip")], key) == {}


def test_unranked_names_a_path_that_asks_for_other_findings():
  other = _path("elixr_c", "elixr", reference="same_patient")
  text = _path("clip_text", "clip", source="text")

  def images(findings):
    return python_types.SimpleNamespace(labels={"findings": findings})

  @dataclasses.dataclass(frozen=True)
  class Context:
    conditions: object
    judges_of: object = None

    def of_run(self, run):
      return Context(images([[1, np.nan], [int(run is other.runs[0]), 1]]))

  context = Context(images([[1, np.nan], [0, 1]]))
  both = [text, other]
  otherwise = paths.asking_otherwise(both, context)
  assert otherwise == {"elixr_c"}
  assert paths.asking_otherwise([other], context) == set()
  asked = {"elixr_c": "other findings were asked for"}
  for metric, group, expected in (
    ("average_precision", "all", asked),
    ("frechet_distance", "finding: Mass", asked),
    ("frechet_distance", "all", {}),
  ):
    key = ("", metric, "probe, pooled", group)
    assert paths.unranked(both, key, otherwise=otherwise) == expected


@pytest.mark.parametrize(
  ("judge", "circular"),
  [
    ("rad_dino, class token", []),
    ("clip, pooled", ["text"]),
    ("elixr_c, mean of the map", ["image"]),
    ("ELIXR zero-shot, best of 32 outputs", ["image"]),
    ("probe, mean of the last maps", []),
  ],
)
def test_unranked_names_a_path_judged_by_its_own_encoder(judge, circular):
  compared = [
    _path("text", "clip", source="text"),
    _path("image", "elixr", reference="same_patient"),
    _path("findings", ""),
  ]
  key = ("fidelity", "frechet_distance", judge, "all")
  reasons = paths.unranked(compared, key)
  assert list(reasons) == circular
  assert all(reason.startswith("circular") for reason in reasons.values())
  # The stand-in of ELIXR is made from the stand-in CLIP.
  standin = _path("image", "elixr", reference="same_patient", standin=True)
  both = paths.unranked([standin], ("fidelity", "frechet_distance", "clip, x", "all"))
  assert list(both) == ["image"]


def test_primary_figure_is_named_once(tmp_path):
  assert primary.declare("auroc", tmp_path) == []
  assert primary.declare("auroc", tmp_path) == []
  (warning,) = primary.declare("cmmd", tmp_path)
  assert "auroc, then cmmd" in warning
  # Naming the first again does not undo it.
  (warning,) = primary.declare("auroc", tmp_path)
  assert "auroc, then cmmd, then auroc" in warning


def test_primary_figure_is_that_of_the_preferred_network():
  keys = [
    ("fidelity", "cmmd", "probe, pooled", "all"),
    ("fidelity", "cmmd", "rad_dino, class token", "sex: F"),
    ("fidelity", "cmmd", "rad_dino, class token", "all"),
    ("adherence", "auroc", "ELIXR zero-shot", "all"),
  ]
  assert primary.key_of("cmmd", keys, "rad_dino") == keys[2]
  assert primary.key_of("cmmd:probe", keys, "rad_dino") == keys[0]
  assert primary.key_of("auroc", keys, "rad_dino") == keys[3]
  assert primary.key_of("cmmd:clip", keys, "rad_dino") is None
