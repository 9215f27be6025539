"""Flags of `prepare`: what it downloads, makes, checks and shares.

flags --define--> holders --values--> name: value
"""

from absl import flags

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.cli import flag_help, sample_flags

Holders = dict[str, flags.FlagHolder]

# Attribute these flags to the main that defines them.
flags.disclaim_key_flags()


def define() -> Holders:
  """Defines the flags."""
  text, texts, switch = flags.DEFINE_string, flags.DEFINE_list, flags.DEFINE_bool
  with flag_help.group("Data"):
    holders: Holders = {
      "download": texts(
        "download",
        [],
        "What to download into the root: nih, elixr, google-labels, google-nih-subset.",
      ),
      "resize": switch(
        "resize", False, "Write resized copies to ROOT/{image_size}x{image_size}."
      ),
      "shard": text(
        "shard",
        "0/1",
        "P/N: make share P of N, beside other processes; a call without it joins them.",
      ),
    }
  with flag_help.group("Embeddings"):
    return {
      **holders,
      "standin": switch(
        "standin", False, "Make missing embeddings with small stand-in encoders."
      ),
      "embed": texts(
        "embed",
        [],
        "ELIXR embeddings to make with its SavedModels: 'elixr' for those that the"
        " config's path reads, or names such as elixrc, txt_emb.",
      ),
      "elixr_models": text(
        "elixr_models",
        "",
        "Folder or hub id of ELIXR's SavedModels; google/cxr-foundation if empty.",
      ),
      "check_embeddings": flags.DEFINE_integer(
        "check_embeddings",
        0,
        "Rows whose ELIXR embeddings in files are compared with those that the"
        " SavedModels make of the same images or prompts; 0 for none.",
        lower_bound=0,
      ),
    }


def shard(holders: Holders) -> tuple[int, int]:
  """Reads `--shard`.

  Raises:
    errors.InputError: not P/N, or flags whose work is not shared.
  """
  share = sample_flags.shard(holders["shard"].value)
  whole = ("download", "resize", "embed", "check_embeddings")
  given = [f"--{name}" for name in whole if holders[name].value]
  if share[1] > 1 and given:
    raise errors.InputError(
      f"--shard with {' and '.join(given)}",
      "--shard alone",
      f"call prepare with {' '.join(given)} once, without --shard",
    )
  return share
