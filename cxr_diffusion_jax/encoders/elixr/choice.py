"""Which kind of ELIXR-B embedding a path reads where its config leaves it open.

config.conditioning {kind: auto}, tree --first of `elixr_b.PREFERRED` with real files,
else with stand-ins of this project, else the first--> config.conditioning {kind: ...}
"""

import os

from absl import logging

from cxr_diffusion_jax import artifacts
from cxr_diffusion_jax.conditioning import elixr_b
from cxr_diffusion_jax.encoders.elixr.files import reader


def settle(
  section: artifacts.JsonMapping, root: str | os.PathLike
) -> artifacts.JsonMapping:
  """Returns a section `config.conditioning` that names the kind of embedding.

  Args:
    section: of any path; changed where its `kind` is `elixr_b.AUTO`.
    root: the dataset's tree; its files are looked into, as `reader.find_elixr` does.

  Raises:
    errors.InputError: an embedding file is not usable.
  """
  if section.get("kind") != elixr_b.AUTO:
    return section
  kind = _choose(root)
  return {**section, "kind": kind}


def kinds_in(root: str | os.PathLike) -> tuple[str, ...]:
  """Kinds of ELIXR-B embeddings that a tree has files of, as preferred."""
  return tuple(
    kind for kind in elixr_b.PREFERRED if reader.find_elixr(root, kind) is not None
  )


def _choose(root: str | os.PathLike) -> str:
  standins = []
  for kind in elixr_b.PREFERRED:
    files = reader.find_elixr(root, kind)
    if files is not None and not files.standin:
      logging.info(
        "config.conditioning.kind=auto reads %s, of %s: the first of %s that %s has",
        *(kind, files.encoder, ", ".join(elixr_b.PREFERRED), root),
      )
      return kind
    standins += [] if files is None else [kind]
  kind = (*standins, elixr_b.PREFERRED[0])[0]
  logging.info(
    "config.conditioning.kind=auto is %s: %s has no published ELIXR-B embeddings",
    *(kind, root),
  )
  return kind
