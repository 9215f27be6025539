"""What a set of generated images reveals of the training images.

generated images --`privacy`, `membership`--> figures, nearest pairs, copies
images for conditions of training images --`memorisation`--> figures, closest pairs
  --a user's network, `reidentification`--> figures
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cxr_diffusion_jax import artifacts, types
from cxr_diffusion_jax.evaluation.eval_context import EvalContext
from cxr_diffusion_jax.evaluation.judges import opening as judges_lib
from cxr_diffusion_jax.evaluation.metrics import (
  memorisation,
  privacy,
  reidentification,
)

if TYPE_CHECKING:
  from cxr_diffusion_jax.evaluation.assessment import GeneratedSet

# Pairs of generated and training images that are kept for pictures.
NUM_PAIRS = 16


def measure(
  context: EvalContext, generated: "GeneratedSet", progress: types.Progress
) -> artifacts.Json:
  """The fields of an `Assessment`: figures and pairs."""
  if context.training is None:
    reason = "the training images of the model are not known"
    num = len(generated.images)
    undefined = judges_lib.undefined("distance_to_training_p50", reason, num=num)
    return {"measurements": [undefined]}
  name = context.preferred.name
  report = privacy.measure(
    generated.features[name],
    generated.images,
    context.privacy_reference,
    conditioning=context.features[name]["conditions"] if context.aligned else None,
    progress=progress,
  )
  figures, pairs = report.measurements, []
  if generated.elicited is not None:
    elicited, unseen = generated.elicited
    pairs = memorisation.closest(elicited, context.privacy_reference, progress)
    figures += memorisation.measure(
      elicited, unseen, context.privacy_reference, pairs, progress=progress
    )
    if context.reidentification is not None:
      figures += reidentification.measure(
        elicited, context.reidentification, progress=progress
      )
  return {
    "measurements": figures,
    "nearest": _captioned(report.nearest),
    "copies": _captioned(report.duplicates),
    "elicited": _captioned(pairs),
  }


def _captioned(pairs: Sequence[privacy.Pair]) -> list[tuple[int, int, str]]:
  return [
    (
      pair.generated,
      pair.training,
      f"{pair.kind}: {pair.generated_id} and training {pair.training_id}, distance"
      f" {pair.distance:.3g}; {pair.real_share:.0%} of real test images are nearer",
    )
    for pair in pairs[:NUM_PAIRS]
  ]
