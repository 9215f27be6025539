"""The trained part of a run: network, codec, conditioner and noise process together.

  x0 = codec.encode(image); context = conditioner(batch)
  denoise_fn(params)(x_t, t, context) -> prediction, preconditioned

Training adds a loss (`training.step`), sampling a sampler (`sampling.generate`).
"""

from collections.abc import Callable
import dataclasses

import jax

from cxr_diffusion_jax import types
from cxr_diffusion_jax.conditioning import base as conditioning
from cxr_diffusion_jax.diffusion import preconditioning as preconditioning_lib
from cxr_diffusion_jax.diffusion import process as process_lib
from cxr_diffusion_jax.models import codec as codec_lib

# Indices of the independent streams of random keys.
INIT_STREAM, TRAIN_STREAM, VALIDATION_STREAM, SAMPLE_STREAM = range(4)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Denoiser:
  """A denoiser without its parameters.

  Attributes:
    apply_fn: ({'params': params}, x_t, t [b] in [0, 1000], context) -> prediction.
    preconditioning: scales the network's inputs and output.
  """

  apply_fn: Callable[..., jax.Array]
  codec: codec_lib.Codec
  conditioner: conditioning.Conditioner
  process: process_lib.Process
  preconditioning: preconditioning_lib.Preconditioning = dataclasses.field(
    default_factory=preconditioning_lib.Identity
  )

  def denoise_fn(
    self, params: types.Params, dropout_key: jax.Array | None = None
  ) -> types.DenoiseFn:
    """Binds parameters: (x_t, t in [0, 1], context) -> prediction.

    With a key, the network drops activations at its rate, as training does.
    """
    options = {} if dropout_key is None else {"rngs": {"dropout": dropout_key}}
    return preconditioning_lib.wrap(
      self.preconditioning,
      self.process,
      lambda x, time, context: self.apply_fn(
        {"params": params}, x, time, context, **options
      ),
    )


def stream_key(seed: int, stream: int) -> jax.Array:
  """Returns the random key of one of the streams above."""
  return jax.random.fold_in(jax.random.key(seed), stream)
