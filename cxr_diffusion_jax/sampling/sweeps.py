"""Pictures that vary one thing at a time: settings on two axes, or the condition.

conditions x (guidance=1,2,4) x (num_steps=10,25) --same noise--> one labelled picture
(1 - w) condition_a + w condition_b, w = 0 ... 1, same noise --> a walk
"""

from collections.abc import Mapping, Sequence
import dataclasses
import functools
import itertools

import numpy as np
from PIL import Image

from cxr_diffusion_jax import errors, pictures, types
from cxr_diffusion_jax.run import run as run_lib
from cxr_diffusion_jax.sampling import generate as generate_lib
from cxr_diffusion_jax.sampling import sample as sampling
from cxr_diffusion_jax.sampling.request import Conditions

# Fields with codes from 0; -1 means unknown.
CODES = ("sex", "view")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Axis:
  """One thing that varies."""

  name: str  # 'seed', or a sample setting with a single value
  values: tuple

  @property
  def labels(self) -> list[str]:
    return [f"{self.name.removeprefix('num_')} {value}" for value in self.values]


def grid(
  run: run_lib.Run,
  conditions: Conditions,
  axes: Sequence[Axis],
  *,
  seed: int = 0,
  changes: Mapping[str, object] | None = None,
  weak_step: int | None = None,
  batch_size: int = 16,
  progress: types.Progress = types.no_progress,
) -> Image.Image:
  """Draws every combination; condition and noise are the same along both axes.

  Args:
    conditions: one row each (with two axes, one block of rows each).
    axes: one axis gives the columns; two give rows and columns.

  Raises:
    errors.InputError: a value out of range, or no such checkpoint.
  """
  names = [axis.name for axis in axes]
  combinations = list(itertools.product(*(axis.values for axis in axes)))
  points = [
    {**(changes or {}), **dict(zip(names, values, strict=True))}
    for values in combinations
  ]
  seeds = [point.pop("seed", seed) for point in points]
  # All values are checked before the first image is drawn.
  every = [dataclasses.replace(run.recipe.sample, **point) for point in points]
  weak_params = None if weak_step is None else run.params_at(weak_step)
  make_generator = functools.cache(
    lambda settings: generate_lib.Generator(recipe=run.recipe, settings=settings)
  )
  images = {}
  for values, settings, point_seed in zip(combinations, every, seeds, strict=True):
    # All scales share one program, except 1, which needs only one branch.
    guidance = settings.guidance
    scale = None if guidance == 1.0 or isinstance(guidance, tuple) else guidance
    shared = settings if scale is None else dataclasses.replace(settings, guidance=2.0)
    images[values] = make_generator(shared).generate(
      run.ema_params,
      conditions.fields,
      seed=point_seed,
      numbers=np.arange(len(conditions)),
      batch_size=batch_size,
      negative=conditions.negative,
      weak_params=weak_params,
      scale=scale,
    )
    progress("combinations", len(images), len(combinations))
  title = sampling.title(run, every[0], weak_step, names)
  return _drawn(images, conditions, axes, title)


def _drawn(
  images: Mapping[tuple, np.ndarray],
  conditions: Conditions,
  axes: Sequence[Axis],
  title: str,
) -> Image.Image:
  """Draws values of the axes -> [n h w 1]; the last axis gives the columns."""
  *down, across = axes
  rows, row_labels = [], []
  heads = [((), "")]
  if down:
    heads = [((v,), x) for v, x in zip(down[0].values, down[0].labels, strict=True)]
  for i, entry in enumerate(conditions.entries):
    text = sampling.caption(entry) if len(conditions) > 1 or not down else ""
    for head, label in heads:
      rows.append([images[(*head, value)][i] for value in across.values])
      row_labels.append(f"{label}\n{text}".strip())
  return pictures.grid(
    rows, row_labels=row_labels, column_labels=across.labels, title=title
  )


def walk(
  run: run_lib.Run,
  conditions: Conditions,
  *,
  num: int,
  seed: int = 0,
  changes: Mapping[str, object] | None = None,
  weak_step: int | None = None,
  batch_size: int = 16,
  progress: types.Progress = types.no_progress,
) -> tuple[Image.Image, np.ndarray]:
  """Walks from one condition to another in equal steps, with the same noise.

  Embeddings and labels are interpolated linearly; a token that only one end has fades
  in or out. A label known at only one end is taken from the nearer end.

  Args:
    conditions: the two ends.
    num: number of images, both ends included; 2 or more.

  Returns:
    The labelled picture, and the images uint8 [num h w 1].

  Raises:
    errors.InputError: not two conditions, fewer than two images, settings out of
      range, or no such checkpoint.
  """
  if len(conditions) != 2 or num < 2:
    raise errors.InputError(
      f"a walk of {num} images between {len(conditions)} conditions",
      "2 or more images between two conditions",
    )
  generator = generate_lib.make_generator(run.recipe, changes)
  weights = np.linspace(0.0, 1.0, num)
  fields = {
    name: np.stack([_mix(name, value[0], value[1], w) for w in weights])
    for name, value in conditions.fields.items()
  }
  images = generator.generate(
    run.ema_params,
    fields,
    seed=seed,
    numbers=np.zeros(num, np.int32),
    batch_size=batch_size,
    progress=progress,
    negative=conditions.negative,
    weak_params=None if weak_step is None else run.params_at(weak_step),
  )
  names = [f"{w:.0%}" for w in weights]
  names[0] = sampling.caption(conditions.entries[0])
  names[-1] = sampling.caption(conditions.entries[1])
  picture = pictures.grid(
    [list(images)],
    column_labels=names,
    title=sampling.title(run, generator.settings, weak_step),
  )
  return picture, images


def _mix(name: str, first: types.Array, last: types.Array, weight: float) -> np.ndarray:
  """Interpolates a field; if an end is unknown, takes the nearer end's value."""
  first, last = np.asarray(first, np.float32), np.asarray(last, np.float32)
  mixed = np.asarray((1 - weight) * first + weight * last, np.float32)
  unknown = np.isnan(mixed)
  if name in CODES:
    unknown |= np.minimum(first, last) < 0
  return np.where(unknown, last if weight >= 0.5 else first, mixed)
