"""The denoising losses of training and validation patients, kept on disk.

run, reference run -> an image of each of some patients, of train and of validation
  --fixed times and noise--> losses [n 8] of each model -> loss_membership

Both lists are of one population, unlike the official training and test lists of NIH,
whose findings differ in prevalence.
"""

import dataclasses
import functools
import hashlib
import json
import pathlib

import numpy as np

from cxr_diffusion_jax import checked_files, errors, types
from cxr_diffusion_jax.evaluation import selection
from cxr_diffusion_jax.evaluation.measurement import Measurement
from cxr_diffusion_jax.evaluation.metrics import loss_membership, nearness
from cxr_diffusion_jax.run import checkpoints, diffusion_section
from cxr_diffusion_jax.run import dataset as dataset_lib
from cxr_diffusion_jax.run import run as run_lib
from cxr_diffusion_jax.sampling import image_parts
from cxr_diffusion_jax.training import compiled
from cxr_diffusion_jax.training import step as step_lib

NUM_TIMES = 8

# Patients of each list, for each condition whose image might be memorised.
PATIENTS_PER_CONDITION = 8


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Model:
  """A run, with the dataset that it was trained on, latents included."""

  run: run_lib.Run

  @functools.cached_property
  def dataset(self) -> dataset_lib.Dataset:
    """Its records and columns."""
    run, autoencoder = self.run, self.run.recipe.autoencoder
    if autoencoder is None:
      return run.dataset
    return dataset_lib.prepare(run.data, run.needs, autoencoder=autoencoder)

  @functools.cached_property
  def weights(self) -> str:
    """Identifies its parameters."""
    return image_parts.weights_digest(self.run)

  def losses(
    self,
    split: str,
    rows: np.ndarray,
    folder: pathlib.Path | None,
    *,
    batch_size: int = 32,
    progress: types.Progress = types.no_progress,
  ) -> np.ndarray:
    """Losses [n 8] of rows of a split, kept in the folder."""
    run, recipe = self.run, self.run.recipe
    facts = [run.card.fingerprint, self.weights, split, rows.tolist(), NUM_TIMES]
    name = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]

    def compute() -> np.ndarray:
      parts = diffusion_section.build(run.config["diffusion"])
      variance = recipe.denoiser.codec.mode_variance
      objective = step_lib.Objective(
        denoiser=recipe.denoiser,
        time_sampler=parts["time_sampler"].for_variance(variance),
        weighting=parts["weighting"],
        drop_rates=(),
      )
      source = self.dataset.source(split, images=recipe.autoencoder is None)
      return compiled.of_rows(
        functools.partial(step_lib.row_losses, objective, num_times=NUM_TIMES),
        run.ema_params,
        source.take(np.searchsorted(source.row, rows)),
        recipe.mesh,
        batch_size=batch_size,
        progress=progress,
      )

    path = None if folder is None else folder / f"losses-{split}-{name}.npz"
    return checked_files.load_or_make(path, compute)


def measure(
  run: run_lib.Run,
  num_conditions: int,
  folder: pathlib.Path,
  *,
  reference: str = "",
  batch_size: int = 32,
  progress: types.Progress = types.no_progress,
) -> list[Measurement]:
  """Membership by the loss, of up to eight patients of each split for each condition.

  Args:
    folder: receives the losses.
    reference: RUN or RUN@STEP, whose losses are subtracted; "" for none.

  Raises:
    errors.InputError: the reference has other records, times or losses.
  """
  models, num = [Model(run=run)], PATIENTS_PER_CONDITION * num_conditions
  judge = "denoising loss"
  if reference:
    models.append(Model(run=_open_reference(reference, run)))
    judge += f", less that of {pathlib.PurePath(reference).name}"
  chosen = {split: _choose(models, split, num) for split in ("train", "validation")}
  enough = min(len(rows) for rows, _ in chosen.values()) >= nearness.MIN_IMAGES
  losses = []
  for split, (rows, _) in chosen.items():
    losses.append(np.zeros((len(rows), NUM_TIMES)))
    if enough:
      own, *others = (
        model.losses(split, rows, folder, batch_size=batch_size, progress=progress)
        for model in models
      )
      losses[-1] = own - sum(others)
  return loss_membership.measure(
    losses[0],
    losses[1],
    (chosen["train"][1], chosen["validation"][1]),
    judge=judge,
  )


def _choose(models: list[Model], split: str, num: int) -> tuple[np.ndarray, np.ndarray]:
  """Rows of one image of each patient that all models have, and the patients."""
  records = models[0].run.dataset.records
  if not records.num_rows.get(split):
    return np.zeros(0, np.int64), np.zeros(0, str)
  patients = records.fields(split)["patient"].astype(str)
  usable = np.zeros(len(patients), int)
  for model in models:
    usable[model.run.dataset.source(split).row] += 1
  rows = selection.sample_patients(
    records.ids(split), patients, usable == len(models), num
  )
  rows = np.sort(rows)
  return rows, patients[rows]


def _open_reference(name: str, run: run_lib.Run) -> run_lib.Run:
  folder, _, step = name.partition("@")
  reference = run_lib.open_run(
    folder,
    checkpoint=step or checkpoints.BEST,
    data_root=run.data_root,
    records_dir=run.records_dir,
    encoder=run.encoder,
  )
  cards, configs = zip(*((x.card, x.config) for x in (run, reference)), strict=True)
  for what, ours, others in (
    ("other records", *(card.fingerprint for card in cards)),
    ("another section diffusion", *(config["diffusion"] for config in configs)),
  ):
    if ours != others:
      raise errors.InputError(
        f"the reference run {name} has {what}",
        f"those of {run.folder}, so that losses are comparable",
        "an earlier checkpoint of the same run: RUN@STEP",
      )
  return reference
