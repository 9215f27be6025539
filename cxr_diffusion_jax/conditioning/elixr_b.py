"""ELIXR-B: what the Q-Former of Google's CXR Foundation makes of a text or an image.

  txt_emb [b 128 768] | contrastive_txt_emb [b 128]                        of a text
  img_emb [b 32 768]  | all_contrastive_img_emb [b 32 128] | contrastive_img_emb [b 128]
    --one token where there is one vector--> tokens [b n d]

The embeddings are outputs of `pax-elixr-b-text` (Xu et al., ELIXR, 2308.01317), in the
column of their name. What is published of `txt_emb` has no mask, so all its 128 tokens
count; stand-ins have zeros after the end of the text, which do not.
"""

import dataclasses
import math

import jax.numpy as jnp

from cxr_diffusion_jax import errors, types
from cxr_diffusion_jax.conditioning import base
from cxr_diffusion_jax.encoders.elixr import model as elixr_model

# Tokens and width of each kind: one vector is one token.
KINDS = {
  kind: (math.prod(shape[:-1]), shape[-1])
  for kind, shape in elixr_model.SHAPES.items()
  if kind != "elixrc"
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Conditioner:
  """Conditions on one of ELIXR-B's embeddings.

  Attributes:
    kind: a key of `KINDS`.
    reference: whose, where the kind is of an image: 'self' or 'same_patient', see
      `base.Needs`.
  """

  kind: str = "txt_emb"
  reference: str = "self"

  def __post_init__(self):
    if self.kind not in KINDS:
      raise errors.InputError(
        f"config.conditioning.kind={self.kind!r}", f"one of {', '.join(sorted(KINDS))}"
      )

  @property
  def needs(self) -> base.Needs:
    return base.Needs(columns=(self.kind,), reference=self.reference)

  @property
  def streams(self) -> tuple[types.StreamSpec, ...]:
    num_tokens, width = KINDS[self.kind]
    return (types.StreamSpec(name="elixr_b", num_tokens=num_tokens, width=width),)

  def __call__(self, batch: types.Batch) -> types.Context:
    """Returns one stream from the batch's embeddings of this kind."""
    (spec,) = self.streams
    values = jnp.asarray(batch[self.kind])
    return (base.stream(values.reshape(-1, spec.num_tokens, spec.width)),)
