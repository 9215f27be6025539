"""The Python interface: a trained run, and images from it as arrays.

folder | bucket | Hugging Face repository --load_run--> Run --sample--> images [n h w]
"""

from collections.abc import Sequence
import dataclasses
import os
import re

from etils import epath
import numpy as np

from cxr_diffusion_jax import artifacts
from cxr_diffusion_jax.run import run as run_lib
from cxr_diffusion_jax.sampling import conditions as conditions_lib
from cxr_diffusion_jax.sampling import request as request_lib
from cxr_diffusion_jax.sampling import sample as sampling

Texts = str | Sequence[str]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Run(run_lib.Run):
  """A trained run that generates images."""

  def sample(
    self,
    prompt: Texts = (),
    *,
    findings: Texts = (),
    age: float | None = None,
    sex: str = "",
    view: str = "",
    reference: Texts = (),
    image_ids: Texts = (),
    split: str = "",
    negative_prompt: str = "",
    num: int | None = None,
    seed: int = 0,
    batch_size: int = 16,
    **settings: object,
  ) -> np.ndarray:
    """Generates images; without a condition, unconditional ones.

    Args:
      prompt: one text or several; each is a condition.
      findings: names of one patient's findings.
      age: in years.
      sex: 'F' or 'M'.
      view: 'PA' or 'AP'.
      reference: path of one X-ray or several; each is a condition.
      image_ids: images of the run's dataset; each is a condition.
      split: split of the run's dataset from which conditions are taken evenly.
      negative_prompt: what to guide away from.
      num: number of images; conditions are used in turn, each once by default.
      seed: seed of the noise; image i depends only on the seed, i and its condition.
      batch_size: images generated at a time.
      **settings: sampler settings, such as guidance=3.0, num_steps=50, sampler="heun";
        see `sample_section.SampleSettings`. The run's own by default.

    Returns:
      float32 [n h w] in [0, 1].

    Raises:
      errors.InputError: an argument that the run cannot use.
    """
    names = findings if isinstance(findings, str) else ",".join(findings)
    request = request_lib.Request(
      prompts=_texts(prompt),
      findings=(names,) if names else (),
      age=age,
      sex=sex,
      view=view,
      references=_texts(reference),
      image_ids=_texts(image_ids),
      negative_prompt=negative_prompt,
    )
    if split:
      request = dataclasses.replace(request, split=split)
    elif not request.given:
      request = dataclasses.replace(request, unconditional=True)
    if request.plain:
      settings.setdefault("guidance", 1.0)
    builder = conditions_lib.ConditionBuilder(run=self)
    conditions = builder.build(request, num or 1)
    samples = sampling.sample(
      self,
      conditions,
      num=num or len(conditions),
      seed=seed,
      batch_size=batch_size,
      changes=settings,
    )
    return samples.images[..., 0].astype(np.float32) / np.float32(255)


def load_run(
  path: artifacts.PathLike,
  *,
  checkpoint: int | str = "best",
  ema_length: float | None = None,
  data_root: str = "",
  records_dir: str = "",
  encoder: str = "",
) -> Run:
  """Opens a trained run.

  Args:
    path: a run's folder, local or in a bucket, or the id of a Hugging Face repository
      that holds one.
    checkpoint: a step, `best` (of the lowest validation loss) or `newest`.
    ema_length: length of an average made from the run's snapshots; by default the
      run's own average is used.
    data_root: where the dataset is now, for `image_ids` and `split`.
    records_dir: where its records are now.
    encoder: folder or hub id where the path's encoder is now.

  Raises:
    errors.InputError: there is no run.
  """
  place = os.fspath(path)
  if not epath.Path(place).exists() and re.fullmatch(r"[\w.-]+/[\w.-]+", place):
    place = _download(place)
  opened = run_lib.open_run(
    place,
    checkpoint=checkpoint,
    ema_length=ema_length,
    data_root=data_root,
    records_dir=records_dir,
    encoder=encoder,
  )
  fields = dataclasses.fields(run_lib.Run)
  return Run(**{field.name: getattr(opened, field.name) for field in fields})


def _download(repository: str) -> str:
  """Downloads a Hugging Face repository; returns the name itself if there is none."""
  import huggingface_hub
  from huggingface_hub import errors as hub_errors

  try:
    return huggingface_hub.snapshot_download(repository)
  except (hub_errors.HfHubHTTPError, hub_errors.LocalEntryNotFoundError, OSError):
    return repository


def _texts(given: Texts) -> tuple[str, ...]:
  return (given,) if isinstance(given, str) else tuple(given)
