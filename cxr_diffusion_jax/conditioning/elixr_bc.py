"""ELIXR-B and ELIXR-C together: a text and a reference X-ray, two streams.

  txt_emb [b 128 768], elixrc [b 8 8 1376] --> (elixr_b, elixr_c)

Each stream is dropped on its own, so one model generates from the text alone, from
the image alone, from both and from neither.
"""

import dataclasses

from cxr_diffusion_jax import types
from cxr_diffusion_jax.conditioning import base, elixr_b, elixr_c


@dataclasses.dataclass(frozen=True, kw_only=True)
class Conditioner:
  """Conditions on both. `--config FILE --help` shows the meaning of these fields.

  Attributes:
    kind: a key of `elixr_b.KINDS`, or "auto", see `elixr_b`.
    pooled: average the image's map into one token, see `elixr_c`.
    reference: which image's map: 'self' or 'same_patient', see `base.Needs`.
  """

  kind: str = "txt_emb"
  pooled: bool = False
  reference: str = "self"

  @property
  def needs(self) -> base.Needs:
    specs = tuple(spec for part in self._parts for spec in part.needs.specs)
    return base.Needs(specs=specs, reference=self.reference)

  @property
  def streams(self) -> tuple[types.StreamSpec, ...]:
    return tuple(spec for part in self._parts for spec in part.streams)

  def __call__(self, batch: types.Batch) -> types.Context:
    """Returns the streams `elixr_b` and `elixr_c` from the columns of both."""
    return tuple(stream for part in self._parts for stream in part(batch))

  @property
  def _parts(self) -> tuple[elixr_b.Conditioner, elixr_c.Conditioner]:
    return (
      elixr_b.Conditioner(kind=self.kind, reference=self.reference),
      elixr_c.Conditioner(pooled=self.pooled, reference=self.reference),
    )
