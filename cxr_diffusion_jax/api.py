"""The Python interface: a trained run, and images from it as arrays.

folder | bucket | Hugging Face repository --load_run--> Run --sample--> images [n h w]
"""

from collections.abc import Sequence
import contextlib
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
  """A trained run that generates images.

  `load_run` also takes the id of a Hugging Face repository that holds a run's folder.
  """

  @staticmethod
  def _find(folder: artifacts.PathLike) -> epath.Path:
    place = epath.Path(folder)
    if not place.exists() and re.fullmatch(r"[\w.-]+/[\w.-]+", os.fspath(folder)):
      import huggingface_hub
      from huggingface_hub import errors as hub_errors

      # If there is no such repository, the folder is reported as missing.
      with contextlib.suppress(
        hub_errors.HfHubHTTPError, hub_errors.LocalEntryNotFoundError, OSError
      ):
        place = epath.Path(huggingface_hub.snapshot_download(os.fspath(folder)))
    return place

  def sample(
    self,
    prompt: Texts = (),
    *,
    findings: Texts = (),
    age: float | None = None,
    sex: str = "",
    view: str = "",
    source: str = "",
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
      source: name of one of several datasets that the run was trained on.
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
    names = ",".join(_texts(findings))
    request = request_lib.Request(
      prompts=_texts(prompt),
      findings=(names,) if names else (),
      age=age,
      sex=sex,
      view=view,
      source=source,
      references=_texts(reference),
      image_ids=_texts(image_ids),
      negative_prompt=negative_prompt,
    )
    if split:
      request = dataclasses.replace(request, split=split)
    elif not request.given:
      request = dataclasses.replace(request, unconditional=True)
    return self._generate(request, num, seed, batch_size, settings)

  def _generate(
    self,
    request: request_lib.Request,
    num: int | None,
    seed: int,
    batch_size: int,
    settings: artifacts.Json,
  ) -> np.ndarray:
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


load_run = Run.open


def _texts(given: Texts) -> tuple[str, ...]:
  return (given,) if isinstance(given, str) else tuple(given)
