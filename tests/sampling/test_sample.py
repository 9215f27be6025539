"""Samples of runs that are made by hand: order, noise, guidance, files."""

import dataclasses
import json
import re

import numpy as np
from PIL import Image
import pytest

from cxr_diffusion_jax import artifacts, errors
from cxr_diffusion_jax.run import card as card_lib
from cxr_diffusion_jax.run import run as run_lib
from cxr_diffusion_jax.sampling import conditions
from cxr_diffusion_jax.sampling import files as sample_files
from cxr_diffusion_jax.sampling import sample as sampling
from cxr_diffusion_jax.sampling.request import Request

PLAIN = {"guidance": 1.0}


def _make(run: run_lib.Run, request: Request, count: int = 3):
  builder = conditions.ConditionBuilder(run=run)
  return builder.build(request, count)


@pytest.fixture(scope="module")
def run(run_of) -> run_lib.Run:
  return run_of("elixr_c")


@pytest.fixture(scope="module")
def pairs(run) -> sampling.Samples:
  """Two images of each of three conditions."""
  return sampling.sample(run, _make(run, Request()), num=6, per_condition=2, seed=5)


def test_sample_orders_images_by_condition(pairs, run):
  ids = [str(run.dataset.ids("test")[place]) for place in (0, 0, 4, 4, 9, 9)]
  assert [entry["image_id"] for entry in pairs.entries] == ids
  assert [entry["number"] for entry in pairs.entries] == [0, 1, 2, 3, 4, 5]
  assert {entry["seed"] for entry in pairs.entries} == {5}
  assert pairs.images.shape == pairs.references.shape == (6, 32, 32, 1)
  np.testing.assert_array_equal(pairs.references[0], pairs.references[1])
  assert _difference(pairs.images[0], pairs.images[1]) > 1


def _difference(a: np.ndarray, b: np.ndarray) -> float:
  return float(np.abs(a.astype(float) - b).mean())


def test_samples_describe_their_settings(pairs):
  assert pairs.settings == {
    "autoguidance_step": None,
    "checkpoint_step": 3,
    "clip_x0": (),
    "dynamic_threshold": 0.0,
    "ema_length": None,
    "eta": None,
    "evaluations_per_image": 4,
    "guidance": 1.5,
    "guidance_interval": (),
    "guidance_rescale": 0.0,
    "num_images": 2,
    "num_steps": 2,
    "sampler": "unipc",
    "sampler_options": "",
    "spacing": "spectrum",
    "times_shift": 1.0,
  }
  for text in ("at step 3", "unipc, 2 steps, guidance 1.5", "stand-in elixrc"):
    assert text in pairs.title


def test_sample_repeats_conditions_for_more_images(pairs, run):
  generated = sampling.sample(run, _make(run, Request()), num=6, seed=5)
  names = [entry["image_id"] for entry in generated.entries]
  assert names == [pairs.names[0], pairs.names[2], pairs.names[4]] * 2
  # The same condition with other noise.
  assert _difference(generated.images[0], generated.images[3]) > 1
  # Where number and condition are the same, so is the image.
  np.testing.assert_array_equal(generated.images[0], pairs.images[0])
  assert _difference(generated.images[1], pairs.images[1]) > 0.1


def test_sample_noise_depends_on_seed_and_number(run):
  nothing = _make(run, Request(unconditional=True))
  generated = [
    sampling.sample(run, nothing, num=6, seed=seed, per_condition=k)
    for seed, k in ((5, 1), (5, 3), (6, 1))
  ]
  np.testing.assert_array_equal(generated[0].images, generated[1].images)
  assert _difference(generated[0].images, generated[2].images) > 5
  assert generated[0].references is None
  assert len(np.unique(generated[0].images, axis=0)) == 6


def test_sample_without_condition_equals_guidance_0(run):
  nothing = _make(run, Request(unconditional=True))
  free = sampling.sample(run, nothing, num=6, seed=5)
  asked = _make(run, Request())
  changes = {"guidance": 0.0}
  generated = sampling.sample(run, asked, num=6, seed=5, changes=changes)
  np.testing.assert_allclose(generated.images.astype(int), free.images, atol=1)
  assert generated.settings["evaluations_per_image"] == 2


def test_sample_takes_a_scale_per_stream(run_of):
  """Of text and image together, scales of 0 and 1 leave the image alone."""
  run = run_of("elixr_bc")
  both = _make(run, Request())
  blank = np.zeros_like(both.fields["contrastive_txt_emb"])
  image = dataclasses.replace(
    both, fields={**both.fields, "contrastive_txt_emb": blank}
  )
  changes = {"guidance": (0.0, 1.0)}
  generated = sampling.sample(run, both, num=3, changes=changes)
  alone = sampling.sample(run, image, num=3, changes=PLAIN)
  together = sampling.sample(run, both, num=3, changes=PLAIN)
  np.testing.assert_allclose(generated.images.astype(int), alone.images, atol=1)
  assert _difference(together.images, alone.images) > 0.5
  assert "guidance 0,1" in generated.title
  assert generated.settings["evaluations_per_image"] == 2
  with pytest.raises(errors.InputError, match="guidance=1,2,3: 3 scales"):
    sampling.sample(run, both, num=3, changes={"guidance": (1.0, 2.0, 3.0)})


def test_sample_is_changed_by_a_negative_condition(run):
  asked = _make(run, Request())
  blank = {name: np.zeros_like(value[:1]) for name, value in asked.fields.items()}
  other = {name: value[2:] for name, value in asked.fields.items()}
  plain, negative, against = (
    sampling.sample(run, dataclasses.replace(asked, negative=fields), num=6)
    for fields in (None, blank, other)
  )
  # To lead away from nothing is what guidance does anyway.
  np.testing.assert_allclose(plain.images.astype(int), negative.images, atol=1)
  assert _difference(plain.images, against.images) > 0.1


def test_sample_refuses_settings_out_of_range(run):
  asked = _make(run, Request())
  with pytest.raises(errors.InputError, match="num_steps=0; expected 1 or more"):
    sampling.sample(run, asked, num=1, changes={"num_steps": 0})
  with pytest.raises(errors.InputError, match="2 scales; expected one number"):
    sampling.sample(run, asked, num=1, changes={"guidance": (1.0, 2.0)})


def test_write_names_files_by_number_and_condition(pairs, tmp_path):
  fewer = dataclasses.replace(
    pairs,
    images=pairs.images[:3],
    references=pairs.references[:3],
    entries=pairs.entries[:3],
    names=["a", "a", "b"],
  )
  sample_files.write(fewer, tmp_path)
  content = json.loads((tmp_path / "samples.json").read_text())
  assert content["settings"]["checkpoint_step"] == 3
  files = {path.name for path in (tmp_path / "images").iterdir()}
  assert files == {"00000_a.png", "00001_a.png", "00002_b.png"}
  assert {path.name for path in (tmp_path / "references").iterdir()} == {
    "a.png",
    "b.png",
  }
  for row, entry in enumerate(content["samples"]):
    assert entry["reference_file"] == f"references/{fewer.names[row]}.png"
    assert (
      entry.items() >= {"number": row, "seed": 5, "image_id": pairs.names[row]}.items()
    )
    for key, values in (("file", pairs.images), ("reference_file", pairs.references)):
      with Image.open(tmp_path / entry[key]) as image:
        assert image.mode == "L"
        # Real images are not marked.
        marked = json.loads(image.text.get("synthetic", "{}"))
        assert marked.get("number") == (row if key == "file" else None)
        np.testing.assert_array_equal(np.asarray(image), values[row, ..., 0])
  for name in ("grid.png", "pairs.png"):
    with Image.open(tmp_path / name) as image:
      assert min(image.size) > 128


def test_write_without_references_writes_none(pairs, tmp_path):
  sample_files.write(dataclasses.replace(pairs, references=None), tmp_path)
  content = json.loads((tmp_path / "samples.json").read_text())
  assert not any("reference_file" in entry for entry in content["samples"])
  assert not (tmp_path / "references").exists()


def test_new_name_is_of_no_folder_that_exists(tmp_path):
  names = set()
  for _ in range(3):
    folder = sample_files.new_name(tmp_path, "Large left effusion?")
    assert re.fullmatch(r"\d{8}-\d{6}_Large-left-effusion(-\d)?", folder.name)
    folder.mkdir(parents=True)
    names.add(folder.name)
  assert len(names) == 3


def test_newest_is_the_last_folder_with_pairs(tmp_path):
  assert sample_files.newest(tmp_path) is None
  for name in (".", "20260102-000000_b", "20260101-000000_a", "20260103-000000_c"):
    (tmp_path / "generated" / name).mkdir(parents=True, exist_ok=True)
    if not name.endswith("c"):
      (tmp_path / "generated" / name / "pairs.png").touch()
  assert sample_files.newest(tmp_path).name == "20260102-000000_b"
  # As a killed call leaves a folder whose files it was replacing.
  newer = tmp_path / "generated/20260103-000000_c"
  with artifacts.new_folder(newer) as folder:
    (folder / sample_files.PAIRS).write_bytes(b"png")
    (folder / "samples.json").write_text("{}")
  assert sample_files.newest(tmp_path).name == newer.name
  (newer / "samples.json").unlink()
  assert sample_files.newest(tmp_path).name == "20260102-000000_b"


@pytest.mark.parametrize(
  ("entry", "text"),
  [
    ({"prompt": "one two three four five six seven eight nine"},
     "one two three four\nfive six seven eight"),
    ({"prompt": "edema"}, "edema\n"),
    ({"findings": ("Edema", "Mass", "Nodule"), "age": 3.0}, "Edema\nMass"),
    ({"findings": (), "image_id": "1"}, "No Finding"),
    ({"reference": "/a/b/x.png"}, "x.png"),
    ({"age": 63.0, "sex": "F"}, "63.0\nF"),
    ({"unconditional": True}, "no condition"),
  ],
)  # fmt: skip
def test_caption_is_short(entry, text):
  assert sampling.caption(entry) == text


def test_open_run_refuses_a_folder_without_a_checkpoint(run, tmp_path):
  card_lib.write(tmp_path, run.config, run.card)
  with pytest.raises(errors.InputError, match="no checkpoint in"):
    run_lib.open_run(tmp_path)
