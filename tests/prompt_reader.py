"""Reads the findings back that a prompt names."""

import re

from cxr_diffusion_jax.data import prompts


def findings_of(text: str) -> tuple[str, ...]:
  """The findings with phrasings that a text names, in their order.

  A finding that is negated counts as present.
  """
  patterns = {
    name: words["pattern"] for name, words in prompts.phrasings()["findings"].items()
  }
  return tuple(
    name
    for name, pattern in patterns.items()
    if re.search(rf"\b(?:{pattern})\b", text.casefold())
  )
