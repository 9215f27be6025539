"""A BERT of radiology reports: a text as the states of its tokens.

  bert_text [b n d], zeros after the end of the text --> tokens [b n d]
  bert_cls  [b k d], the first token's state alone   --> tokens [b k d]

The last hidden state (Devlin et al., 1810.04805). By default CXR-BERT (Boecking et al.,
2204.09817), which was trained on reports, and then beside X-rays by its first token.
"""

import dataclasses

from cxr_diffusion_jax import types
from cxr_diffusion_jax.conditioning import base

DEFAULT = "microsoft/BiomedVLP-CXR-BERT-specialized"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Conditioner:
  """Conditions on a text.

  Attributes:
    encoder: folder or hub id of a BERT, a RoBERTa or CXR-BERT, or "standin" for the
      text half of the CLIP that `prepare` trains on the tree's own images and prompts.
    pooled: the state of the first token, [CLS], in place of all tokens.
    chunks: multiples of 128 tokens that a text may fill; a longer one is cut.
    shape: (n, d), read from the encoder's configuration where it is ().
  """

  encoder: str = DEFAULT
  pooled: bool = False
  chunks: int = 1
  shape: tuple[int, ...] = ()

  @property
  def needs(self) -> base.Needs:
    column = base.ColumnSpec(
      name=self._column,
      encoder="bert",
      source="text",
      shape=self.shape,
      model=self.encoder,
      chunks=self.chunks,
    )
    return base.Needs(specs=(column,))

  @property
  def streams(self) -> tuple[types.StreamSpec, ...]:
    num_tokens, width = self.shape
    return (types.StreamSpec(name="bert_text", num_tokens=num_tokens, width=width),)

  def __call__(self, batch: types.Batch) -> types.Context:
    """Returns one stream from the batch's column [b n d]."""
    return (base.stream(batch[self._column]),)

  @property
  def _column(self) -> str:
    return "bert_cls" if self.pooled else "bert_text"
