"""Loss curves are read back from the events as CLU writes them."""

from clu import metric_writers
import numpy as np

from cxr_diffusion_jax.report import curves


def _write(folder, scalars: dict[int, dict[str, float]]) -> None:
  writer = metric_writers.SummaryWriter(str(folder))
  for step, values in scalars.items():
    writer.write_scalars(step, values)
  writer.close()


def test_the_last_word_on_a_step_counts(tmp_path):
  """A run that was killed after step 10 did it again."""
  first = {5: {"train/loss": 2.0}, 10: {"train/loss": 1.5, "validation/loss": 1.75}}
  _write(tmp_path, first)
  _write(tmp_path, {10: {"train/loss": 1.25}, 15: {"train/loss": 1.0, "other": 3.0}})
  assert curves.read(tmp_path) == {
    "train/loss": ([5, 10, 15], [2.0, 1.25, 1.0]),
    "validation/loss": ([10], [1.75]),
  }


def test_nothing_told_is_no_curve(tmp_path):
  assert curves.read(tmp_path) == {}


def test_every_step_of_a_long_run_is_kept(tmp_path):
  _write(tmp_path, {step: {"train/loss": float(step)} for step in range(1, 1201)})
  steps, values = curves.read(tmp_path)["train/loss"]
  assert steps == list(range(1, 1201))
  assert values == [float(step) for step in steps]


def test_a_picture_shows_the_runs_and_what_they_told():
  one = {"validation/loss": ([1, 2], [0.5, 0.25])}
  other = {"validation/loss": ([1, 2], [0.6, 0.5]), "train/loss": ([1], [0.7])}
  pixels = [
    np.asarray(curves.picture(runs, tags).convert("RGB"), np.int32)
    for runs, tags in (
      ({"a": one}, curves.TAGS),
      ({"a": one, "b": other}, curves.TAGS),
      ({"a": one, "b": other}, ["validation/loss"]),
    )
  ]
  assert len({picture.shape for picture in pixels}) == 1
  # The second run adds a line, and so does a second tag of it.
  assert np.abs(pixels[0] - pixels[1]).max() > 100
  assert np.abs(pixels[1] - pixels[2]).max() > 100


def test_a_run_without_events_has_an_empty_picture():
  assert curves.picture({"a": {}}).size == (880, 352)
