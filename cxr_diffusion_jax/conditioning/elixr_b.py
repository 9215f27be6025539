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
from types import MappingProxyType

import jax.numpy as jnp

from cxr_diffusion_jax import naming, types
from cxr_diffusion_jax.conditioning import base

# What each kind is made from, and the shape of its rows.
KINDS = MappingProxyType(
  {
    "img_emb": ("image", (32, 768)),
    "txt_emb": ("text", (128, 768)),
    "all_contrastive_img_emb": ("image", (32, 128)),
    "contrastive_img_emb": ("image", (128,)),
    "contrastive_txt_emb": ("text", (128,)),
  }
)

# The kind that the tree's files hold, see `encoders.elixr.choice`.
AUTO = "auto"

# Which of several that is: texts before images, then more tokens before fewer.
PREFERRED = (
  "txt_emb",
  "contrastive_txt_emb",
  "img_emb",
  "all_contrastive_img_emb",
  "contrastive_img_emb",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Conditioner:
  """Conditions on one of ELIXR-B's embeddings.

  Attributes:
    kind: a key of `KINDS`, or "auto" for the first of `PREFERRED` that the tree has; as
      a run stores it, the kind that was chosen.
    reference: which image, for a kind made from images: see `base.Needs`.
  """

  kind: str = AUTO
  reference: str = "self"

  def __post_init__(self):
    naming.check("config.conditioning.kind", self.kind, (AUTO, *KINDS))

  @property
  def needs(self) -> base.Needs:
    source, shape = KINDS[self._kind]
    column = base.ColumnSpec(
      name=self._kind, encoder="elixr", source=source, shape=shape
    )
    return base.Needs(specs=(column,), reference=self.reference)

  @property
  def streams(self) -> tuple[types.StreamSpec, ...]:
    _, shape = KINDS[self._kind]
    # One vector is one token.
    num_tokens = math.prod(shape[:-1])
    return (types.StreamSpec(name="elixr_b", num_tokens=num_tokens, width=shape[-1]),)

  def __call__(self, batch: types.Batch) -> types.Context:
    """Returns one stream from the batch's embeddings of this kind."""
    (spec,) = self.streams
    values = jnp.asarray(batch[self._kind])
    return (base.stream(values.reshape(-1, spec.num_tokens, spec.width)),)

  @property
  def _kind(self) -> str:
    """What "auto" is without a tree."""
    return PREFERRED[0] if self.kind == AUTO else self.kind
