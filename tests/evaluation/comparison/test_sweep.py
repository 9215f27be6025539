"""Guidance is chosen for each path, on validation conditions alone."""

import dataclasses
import json

import numpy as np
import pytest

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.data.image_sets import image_set
from cxr_diffusion_jax.evaluation import eval_context
from cxr_diffusion_jax.evaluation.comparison import runs as comparison
from cxr_diffusion_jax.evaluation.comparison import sweep as sweep_lib
from cxr_diffusion_jax.evaluation.comparison.data import SweepPoint
from cxr_diffusion_jax.evaluation.comparison.path_assessment import Options
from cxr_diffusion_jax.evaluation.comparison.paths import ConditioningPath
from cxr_diffusion_jax.evaluation.measurement import Measurement
from cxr_diffusion_jax.sampling import image_parts
from tests.fixtures.runs import make_run

# Path -> the scale at which it copies no training image.
BEST = {"findings": 1.0, "elixr_c": 3.0}


@pytest.fixture
def paths(prepared, tmp_path) -> list[ConditioningPath]:
  """Two paths of a run each, without parameters."""
  opened = []
  for name in BEST:
    run = make_run(*prepared(name, data__validation_fraction=0.4), tmp_path / name)
    opened.append(ConditioningPath(name=name, runs=(run,), config=run.config))
  return opened


@pytest.fixture
def options() -> Options:
  return Options(
    metrics=("exact_copies",),
    primary="exact_copies",
    sweep=(1.0, 3.0, 5.0),
    sweep_num=6,
    memorisation_num=0,
  )


@pytest.fixture
def requested(monkeypatch) -> list[tuple[str, str, float, int, tuple[str, ...]]]:
  """(path, kind, scale, first, ids) of requests; copies except at the best scale."""
  asked = []

  def generate(generator, image_ids, *, name="images", first=0, progress=None):
    path = generator.run.folder.name
    scale = generator.generator.settings.guidance
    asked.append((path, name, scale, first, tuple(image_ids)))
    size = generator.run.dataset.records.image_size
    images = np.random.default_rng(1).integers(0, 255, (len(image_ids), size, size, 1))
    if scale != BEST[path]:
      records = generator.run.dataset.records
      images[0] = image_set.of_records(records, "train").images[0]
    return images.astype(np.uint8)

  monkeypatch.setattr(image_parts, "generate", generate)
  return asked


def test_compare_chooses_each_path_its_best_scale_without_test_conditions(
  paths, options, requested, judged, tmp_path
):
  compared = comparison.compare(paths, tmp_path, options)
  records = paths[0].runs[0].dataset.records
  swept = [one for one in requested if one[1] == "sweep"]
  tested = [one for one in requested if one[1] == "images"]
  # The choice is made first, of the same validation conditions and noise at each scale.
  assert requested == [*swept, *tested]
  assert [one[:3] for one in swept] == [
    (name, "sweep", scale) for name in BEST for scale in options.sweep
  ]
  ((first, ids),) = {one[3:] for one in swept}
  assert first == sweep_lib.FIRST
  assert 0 < len(ids) <= 6
  assert {*ids} <= {*map(str, records.ids("validation"))}
  assert [one[:3] for one in tested] == [
    (name, "images", scale) for name, scale in BEST.items()
  ]
  assert {*tested[0][4]} <= {*map(str, records.ids("test"))}
  # The whole curve is kept, with the choice.
  values = json.loads((tmp_path / "metrics.json").read_text())
  for name, best in BEST.items():
    points = values["paths"][name]["sweep"]
    assert [point["guidance"] for point in points] == list(options.sweep)
    copies = [point["primary"]["value"] for point in points]
    assert [value == 0 for value in copies] == [s == best for s in options.sweep]
    assert [point["chosen"] for point in points] == [s == best for s in options.sweep]
  assert "findings 1, elixr_c 3: of 1, 3, 5 the best" in compared.facts["guidance"]
  assert not any("not chosen for each" in one for one in compared.limitations)


def test_compare_without_a_sweep_says_that_no_guidance_was_chosen(
  paths, options, requested, judged, tmp_path
):
  options = dataclasses.replace(options, sweep=(), changes={"guidance": 1.5})
  compared = comparison.compare(paths, tmp_path, options)
  assert {one[2] for one in requested} == {1.5}
  assert compared.facts["guidance"] == "1.5 in all paths; not chosen by a sweep"
  assert any("not chosen for each" in one for one in compared.limitations)


def test_of_split_has_conditions_of_other_patients(paths, judged):
  runs = [path.runs[0] for path in paths]
  context = eval_context.of_runs(runs, per_patient=1)
  unseen = eval_context.of_split(context, runs, "validation", num=2, per_patient=1)
  assert len(unseen.conditions) == 2
  sets = (context.conditions, context.reference, context.training)
  for own in (unseen.conditions, unseen.reference):
    assert not any({*own.patients} & {*other.patients} for other in sets)
  assert not {*unseen.conditions.patients} & {*unseen.reference.patients}
  features = unseen.features["probe"]
  assert len(features["conditions"]) == 2
  assert len(features["reference"]) == len(unseen.reference)


@pytest.mark.parametrize(
  ("changes", "words"),
  [
    ({"split": "validation"}, "guidance is chosen on validation conditions"),
    ({"primary": "frechet_distance"}, "frechet_distance is undefined: . images"),
    ({"primary": "loss_tpr"}, "loss_tpr, which a sweep of guidance does not measure"),
  ],
)
def test_sweep_refuses_what_it_cannot_choose_by(
  changes, words, paths, options, requested, judged, tmp_path
):
  with pytest.raises(errors.InputError, match=words):
    comparison.compare(paths, tmp_path, dataclasses.replace(options, **changes))
  assert not [one for one in requested if one[1] == "images"]


def _points(values, better: str) -> list[SweepPoint]:
  points = []
  for scale, value in values.items():
    one = Measurement(
      subject="fidelity", metric="cmmd", value=value, num=9, better=better
    )
    points.append(SweepPoint(guidance=scale, primary=one, fidelity=one, adherence=one))
  return points


@pytest.mark.parametrize(
  ("values", "better", "best"),
  [
    ({1.0: 0.3, 1.5: 0.1, 3.0: 0.2}, "lower", 1.5),
    ({1.0: 0.3, 1.5: 0.1, 3.0: 0.5}, "higher", 3.0),
    ({3.0: 0.1, 1.5: 0.1, 2.0: 0.1}, "lower", 1.5),
  ],
)
def test_choose_takes_the_best_and_of_equal_ones_the_smallest(values, better, best):
  assert sweep_lib.choose(_points(values, better)) == best


@pytest.mark.parametrize(
  ("values", "warned"),
  [
    ({1.0: 0.1, 2.0: 0.2}, False),
    ({1.5: 0.1, 2.0: 0.2}, True),
    ({1.0: 0.3, 2.0: 0.2, 3.0: 0.3}, False),
    ({1.0: 0.3, 2.0: 0.2}, True),
    ({2.0: 0.2}, False),
  ],
)
def test_sweep_warns_where_the_best_may_lie_beyond(values, warned):
  points = _points(values, "lower")
  best = sweep_lib.choose(points)
  points = [dataclasses.replace(one, chosen=one.guidance == best) for one in points]
  sweep = sweep_lib.Sweep(num=9, patients=9, points={"a": points})
  assert bool(sweep.warnings) == warned
