"""Loss curves, read from the events that CLU writes."""

from clu import metric_writers

from cxr_diffusion_jax.run import loss_curves


def _write(folder, scalars: dict[int, dict[str, float]]) -> None:
  writer = metric_writers.SummaryWriter(str(folder))
  for step, values in scalars.items():
    writer.write_scalars(step, values)
  writer.close()


def test_read_takes_the_last_value_of_a_step(tmp_path):
  """A run that was killed after step 10 and resumed logs it twice."""
  first = {5: {"train/loss": 2.0}, 10: {"train/loss": 1.5, "validation/loss": 1.75}}
  _write(tmp_path, first)
  (before,) = tmp_path.iterdir()
  _write(tmp_path, {10: {"train/loss": 1.25}, 15: {"train/loss": 1.0, "other": 3.0}})
  # Events count, not names: those of one second may sort in another order.
  before.rename(tmp_path / "events.out.tfevents.9999999999.host")
  assert loss_curves.read(tmp_path) == {
    "train/loss": ([5, 10, 15], [2.0, 1.25, 1.0]),
    "validation/loss": ([10], [1.75]),
  }


def test_read_of_a_folder_without_events_is_empty(tmp_path):
  assert loss_curves.read(tmp_path) == {}


def test_read_keeps_every_step_of_a_long_run(tmp_path):
  _write(tmp_path, {step: {"train/loss": float(step)} for step in range(1, 1201)})
  steps, values = loss_curves.read(tmp_path)["train/loss"]
  assert steps == list(range(1, 1201))
  assert values == [float(step) for step in steps]
