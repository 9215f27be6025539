"""Grids and walks vary what they say, and nothing else."""

import dataclasses

import jax
import numpy as np
import pytest

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.cli import sample_flags
from cxr_diffusion_jax.run import run as run_lib
from cxr_diffusion_jax.sampling import conditions, sweeps
from cxr_diffusion_jax.sampling import generate as generate_lib
from cxr_diffusion_jax.sampling import sample as sampling
from cxr_diffusion_jax.sampling.request import Request, join_rows


@pytest.fixture(scope="module")
def run(run_of) -> run_lib.Run:
  return run_of("findings")


@pytest.fixture(scope="module")
def builder(run) -> conditions.ConditionBuilder:
  return conditions.ConditionBuilder(run=run)


@pytest.fixture
def drawn(monkeypatch) -> list[dict]:
  """What each picture was drawn from: rows, labels, title."""
  calls = []
  draw = sweeps.pictures.grid

  def grid(rows, **labels):
    calls.append({"rows": rows, **labels})
    return draw(rows, **labels)

  monkeypatch.setattr(sweeps.pictures, "grid", grid)
  return calls


@pytest.fixture
def programs(monkeypatch) -> list[generate_lib.SampleSettings]:
  """The settings of all programs that are made."""
  results = []
  make = generate_lib.make_generate

  def counted(objective, settings, *rest):
    results.append(settings)
    return make(objective, settings, *rest)

  monkeypatch.setattr(generate_lib, "make_generate", counted)
  return results


@pytest.fixture
def reported(monkeypatch) -> list[dict]:
  """Generates flat images that tell what they were made from; keeps the batches.

  Grey level: steps + 10 scale + 100 of the sampler ddim.
  """
  batches = []

  def make(objective, settings, *_):
    def generate(params, batch, keys, *, scale=None, **others):
      scale = settings.guidance if scale is None else scale
      level = settings.num_steps + 10 * scale + 100 * (settings.sampler == "ddim")
      batches.append(
        {
          **{name: np.asarray(value) for name, value in batch.items()},
          "key": np.asarray(jax.random.key_data(keys)),
          **others,
        }
      )
      return np.full((len(keys), 8, 8, 1), level / 127.5 - 1)

    return generate

  monkeypatch.setattr(generate_lib, "make_generate", make)
  return batches


def test_axes_are_parsed():
  guidance, steps = sample_flags.axes(["guidance=1,2.5", "num_steps=10,25"])
  assert guidance == sweeps.Axis(name="guidance", values=(1.0, 2.5))
  assert steps.values == (10, 25)
  assert steps.labels == ["steps 10", "steps 25"]
  assert sample_flags.axes([]) == ()


@pytest.mark.parametrize(
  ("texts", "message"),
  [
    (
      ["guidance"],
      "'guidance'; expected NAME=VALUE,VALUE,... of seed, sampler, num_st",
    ),
    (["guidance="], "expected NAME=VALUE"),
    (["gudance=1"], "expected NAME=VALUE"),
    (["=1"], "expected NAME=VALUE"),
    (["guidance=1,x"], "values of type float"),
    (["guidance=1,,2"], "values of type float"),
    (["num_steps=1.5"], "values of type int"),
    (["seed=1", "seed=2"], "one or two different axes"),
    (["seed=1", "num_steps=2", "guidance=3"], "one or two different axes"),
  ],
)
def test_axes_refuse_other_text(texts, message):
  with pytest.raises(errors.InputError, match=message):
    sample_flags.axes(texts)


@pytest.mark.parametrize(
  ("first", "rest", "others", "message"),
  [
    ("a", [], [], "arguments a; expected --name=value, and two conditions for"),
    ("a", ["b", "c"], [], "arguments a b c; expected"),
    ("", ["stray"], [], "arguments stray; expected"),
    ("a", ["b"], ["grid", "prompt"], "--interpolate with --grid; expected one of them"),
  ],
)
def test_ends_refuses_other_requests_beside_a_walk(first, rest, others, message):
  assert sample_flags.ends("a", ["b"], []) == ("a", "b")
  assert sample_flags.ends("", [], ["prompt"]) == ()
  with pytest.raises(errors.InputError, match=message):
    sample_flags.ends(first, rest, others)


def test_grid_of_scales_equals_sampling_with_each(run, builder, drawn, programs):
  asked = builder.build(Request(), 4)
  (axis,) = sample_flags.axes(["guidance=1,2,4"])
  picture = sweeps.grid(run, asked, [axis], seed=3)
  # Guidance 1 has one branch; all other scales share a program.
  assert [settings.guidance for settings in programs] == [1.0, 2.0]
  (call,) = drawn
  assert call["column_labels"] == ["guidance 1.0", "guidance 2.0", "guidance 4.0"]
  assert [len(row) for row in call["rows"]] == [3] * 4
  assert picture.size[0] >= 3 * 128
  assert picture.size[1] > 4 * 128
  for column, scale in ((0, 1.0), (2, 4.0)):
    changes = {"guidance": scale}
    results = sampling.sample(run, asked, num=4, seed=3, changes=changes)
    for row in range(4):
      shown = call["rows"][row][column].astype(int)
      np.testing.assert_allclose(shown, results.images[row], atol=1)
  assert np.abs(call["rows"][0][0].astype(int) - call["rows"][0][2]).mean() > 0.1


def test_grid_of_two_axes_has_rows_and_columns(run, builder, drawn, reported):
  asked = builder.build(Request(), 2)
  axes = sample_flags.axes(["num_steps=3,5", "guidance=1,2,4"])
  done = []
  picture = sweeps.grid(run, asked, axes, progress=lambda *now: done.append(now))
  (call,) = drawn
  levels = [[int(cell[0, 0, 0]) for cell in row] for row in call["rows"]]
  assert levels == [[13, 23, 43], [15, 25, 45]] * 2
  captions = [sampling.caption(entry).split("\n")[0] for entry in asked.entries]
  expected = [f"steps {s}\n{c}" for c in captions for s in (3, 5)]
  assert [
    label[: len(e)] for label, e in zip(call["row_labels"], expected, strict=True)
  ] == expected
  assert picture.size[1] > 4 * 128
  assert done[-1] == ("combinations", 6, 6)
  # What varies is not in the title.
  assert call["title"] == "by_hand_findings at step 3, unipc, phantom images"
  # The same noise and the same conditions everywhere.
  for batch in reported[1:]:
    np.testing.assert_array_equal(batch["key"], reported[0]["key"])
    np.testing.assert_array_equal(batch["findings"], reported[0]["findings"])


def test_grid_of_one_condition_omits_its_name(run, builder, drawn, reported):
  axes = sample_flags.axes(["sampler=euler,ddim", "seed=0,1,2"])
  sweeps.grid(run, builder.build(Request(), 1), axes)
  (call,) = drawn
  assert call["row_labels"] == ["sampler euler", "sampler ddim"]
  assert [int(row[0][0, 0, 0]) for row in call["rows"]] == [17, 117]
  assert call["title"].endswith("step 3, 2 steps, guidance 1.5, phantom images")
  keys = [tuple(batch["key"][0]) for batch in reported]
  assert keys[:3] == keys[3:]
  assert len(set(keys)) == 3


def test_grid_refuses_values_out_of_range_first(run, builder, reported):
  asked = builder.build(Request(), 1)
  for text, message in (
    ("num_steps=2,0", "num_steps=0"),
    ("sampler=euler,eular", "sampler 'eular'; expected one of ddim"),
    ("guidance_rescale=0,2", "guidance_rescale=2.0; expected 0 to 1"),
  ):
    with pytest.raises(errors.InputError, match=message):
      sweeps.grid(run, asked, sample_flags.axes([text]))
  assert reported == []


def test_walk_ends_at_the_plain_images(run, builder, drawn):
  ends = builder.build(Request(findings=("Effusion,Mass", "Cardiomegaly")), 1)
  picture, images = sweeps.walk(run, ends, num=4, seed=3)
  assert images.shape == (4, 32, 32, 1)
  for end, row in ((0, 0), (1, 3)):
    plain = sampling.sample(run, ends.take([end]), num=4, per_condition=4, seed=3)
    np.testing.assert_allclose(images[row].astype(int), plain.images[0], atol=1)
  changes = np.abs(np.diff(images.astype(int), axis=0)).mean(axis=(1, 2, 3))
  assert (changes > 0.05).all()
  (call,) = drawn
  assert call["column_labels"] == ["Effusion\nMass", "33%", "67%", "Cardiomegaly"]
  assert picture.size[0] > 4 * 128


def test_walk_mixes_what_is_known_at_both_ends(run, builder, reported):
  parts = [
    builder.build(Request(findings=("Mass",), age=20.0, sex="M"), 1),
    builder.build(Request(findings=("Edema",), age=60.0, view="AP"), 1),
  ]
  sweeps.walk(run, join_rows(parts), num=5)
  (batch,) = reported
  edema, mass = 3, 9
  quarters = [0, 0.25, 0.5, 0.75, 1]
  np.testing.assert_allclose(batch["findings"][:, edema], quarters)
  np.testing.assert_allclose(batch["findings"][:, mass], quarters[::-1])
  np.testing.assert_allclose(batch["age"], [20, 30, 40, 50, 60])
  # Half of unknown (-1) and AP (1) would be PA (0).
  np.testing.assert_array_equal(batch["view"], [-1, -1, 1, 1, 1])
  np.testing.assert_array_equal(batch["sex"], [1, 1, -1, -1, -1])
  assert len(np.unique(batch["key"], axis=0)) == 1


def test_walk_from_an_image_keeps_it_at_its_end(run, builder, reported):
  image_id = str(run.dataset.ids("test")[0])
  image = builder.build(Request(image_ids=(image_id,)), 1)
  sweeps.walk(run, builder.between([image_id, "Mass"]), num=3)
  (batch,) = reported
  for name, value in image.fields.items():
    np.testing.assert_array_equal(batch[name][0], value[0])
  assert np.isfinite(batch["age"]).tolist() == [True, False, False]


def test_walk_fades_embeddings_in(run_of, reported):
  run = run_of("elixr_c")
  builder = conditions.ConditionBuilder(run=run)
  ends = join_rows(
    [builder.build(Request(unconditional=True), 1), builder.build(Request(), 1)]
  )
  sweeps.walk(run, ends, num=3)
  (batch,) = reported
  full = np.asarray(ends.fields["elixrc"][1], np.float32)
  np.testing.assert_array_equal(batch["elixrc"][0], np.zeros_like(full))
  np.testing.assert_allclose(batch["elixrc"][1], full / 2, rtol=1e-6)
  np.testing.assert_array_equal(batch["elixrc"][2], full)


def test_walk_and_grid_use_negative_conditions_and_autoguidance(
  run, builder, reported, monkeypatch
):
  ends = builder.build(Request(findings=("Mass", "Edema")), 1)
  blank = builder.build(Request(unconditional=True), 1).fields
  against = dataclasses.replace(ends, negative=blank)
  weak = {"w": np.zeros(1)}
  monkeypatch.setattr(run_lib, "read_params", lambda *_: (weak, 2))
  sweeps.walk(run, against, num=2)
  sweeps.grid(run, against, sample_flags.axes(["guidance=2"]))
  sweeps.walk(run, ends, num=2, weak_step=2)
  sweeps.grid(run, ends, sample_flags.axes(["guidance=2"]), weak_step=2)
  assert [sorted({"negative", "weak_params"} & set(batch)) for batch in reported] == [
    ["negative"],
    ["negative"],
    ["weak_params"],
    ["weak_params"],
  ]


@pytest.mark.parametrize(("count", "num"), [(1, 4), (3, 4), (2, 1)])
def test_walk_refuses_other_than_two_ends(count, num, run, builder):
  asked = builder.build(Request(), count)
  with pytest.raises(errors.InputError, match="2 or more images between two"):
    sweeps.walk(run, asked, num=num)
