"""Lists the keys of a config with their values and meaning.

config --> the class that each section builds --> its docstring --> meaning of a key
"""

from collections.abc import Callable, Iterator

import ml_collections

from cxr_diffusion_jax import artifacts, naming
from cxr_diffusion_jax.cli import flag_help
from cxr_diffusion_jax.conditioning import base as conditioning
from cxr_diffusion_jax.data import settings as data_settings
from cxr_diffusion_jax.diffusion import loss, preconditioning, schedule, time_sampler
from cxr_diffusion_jax.extras.autoencoder import settings as autoencoder_settings
from cxr_diffusion_jax.models import codec, kl_codec
from cxr_diffusion_jax.parallel import mesh
from cxr_diffusion_jax.run import model_section, sample_section
from cxr_diffusion_jax.training import alignment, optimizer, train_settings

# Keys that choose a class, or that are read together with other sections.
_COMMON = {
  "seed": "Seed of everything random.",
  "name": "Which one; a wrong name lists all.",
  "drop_rate": "Probability that training drops the condition; one number, or one a"
  " stream.",
  "dtype": "Type of activations: auto, bfloat16, float16 or float32.",
  "pretrained": "Folder or hub id of weights to start from; empty for none.",
  "prediction": "What the network predicts: epsilon, v, x0 or velocity.",
  "folder": "Folder or hub id of the autoencoder.",
}


def text(config: ml_collections.ConfigDict) -> str:
  """Returns one entry per key, by section."""
  lines = ["Keys of this config; --config.KEY=VALUE changes one."]
  section = None
  for prefix, key, value, meaning in keys(config):
    if prefix != section:
      section = prefix
      lines += ["", f"{prefix}:" if prefix else "config:"]
    shown = f"{prefix}.{key}".lstrip(".") + f"={value!r}"
    lines.append(flag_help.entry(shown, meaning[:1].upper() + meaning[1:]))
  return "\n".join(lines)


def keys(
  config: ml_collections.ConfigDict, prefix: str = ""
) -> Iterator[tuple[str, str, object, str]]:
  """Yields section, key, value and meaning."""
  described = {**_COMMON, **_meanings(prefix, config.to_dict())}
  subsections: list[tuple[str, ml_collections.ConfigDict]] = []
  for key, value in config.items():
    if isinstance(value, ml_collections.ConfigDict):
      subsections.append((f"{prefix}.{key}".lstrip("."), value))
    else:
      yield prefix, key, value, described.get(key, "")
  for name, section in subsections:
    yield from keys(section, name)


def _meanings(prefix: str, section: artifacts.JsonMapping) -> dict[str, str]:
  named: dict[str, Callable[[str], Callable[..., object]]] = {
    "conditioning": conditioning.load,
    "diffusion.preconditioning": preconditioning.load,
    "diffusion.schedule": schedule.load,
    "diffusion.time_sampler": time_sampler.load,
    "diffusion.weighting": loss.load,
    "model": lambda name: naming.load("model", model_section.NETWORKS, name).NETWORK,
    "codec": {"pixel": codec.Pixel, "haar": codec.Haar, "kl": kl_codec.Kl}.__getitem__,
  }
  fixed: dict[str, Callable[..., object]] = {
    "data": data_settings.DataSettings,
    "optimizer": optimizer.OptimizerSettings,
    "parallel": mesh.make_mesh,
    "repa": alignment.RepaSettings,
    "sample": sample_section.SampleSettings,
    "train": train_settings.TrainSettings,
    # Sections of an autoencoder's config.
    "discriminator": autoencoder_settings.DiscriminatorSettings,
    "loss": autoencoder_settings.LossSettings,
  }
  if prefix in named and "name" in section:
    return flag_help.meanings(named[prefix](section["name"]))
  return flag_help.meanings(fixed[prefix]) if prefix in fixed else {}
