"""The null condition of a run whose path takes the empty prompt's states for it.

{column: [n d]} --to_json--> dataset card's statistics --bind--> conditioner

In the card, so that a run samples without an encoder where no prompt is given.
"""

import base64
from collections.abc import Mapping

import numpy as np

from cxr_diffusion_jax import artifacts
from cxr_diffusion_jax.conditioning import base as conditioning

# The entry of a card's statistics.
KEY = "empty_text"


def to_json(states: Mapping[str, np.ndarray]) -> artifacts.Json:
  """Describes states [n d] of each column as text: float16 in base 64, row by row."""
  return {
    name: {
      "shape": list(values.shape),
      "float16": base64.b64encode(values.astype("<f2").tobytes()).decode(),
    }
    for name, values in states.items()
  }


def bind(
  conditioner: conditioning.Conditioner, statistics: artifacts.JsonMapping
) -> conditioning.Conditioner:
  """Gives a conditioner the null condition that its path needs, if any.

  Without statistics it is zeros, as in a program that is compiled for its shapes.
  """
  specs = [spec for spec in conditioner.needs.specs if spec.empty]
  if not specs:
    return conditioner
  (spec,), (stream,) = specs, conditioner.streams
  states = np.zeros((stream.num_tokens, stream.width), np.float32)
  if kept := statistics.get(KEY, {}).get(spec.name):
    content = base64.b64decode(kept["float16"])
    states = np.frombuffer(content, "<f2").reshape(kept["shape"]).astype(np.float32)
  if isinstance(conditioner, conditioning.WithNull):
    conditioner = conditioner.conditioner
  return conditioning.WithNull(conditioner=conditioner, states=states)
