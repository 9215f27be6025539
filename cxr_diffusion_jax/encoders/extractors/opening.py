"""Opens feature extractors by name, or all that are available.

names, weights -> [Extractor, ...], {name: why it is unavailable}
extract(extractor, images) --batches, kept on disk--> features [n d]

A distance between sets of images is one between their features: every figure depends on
the network and the layer.
"""

from collections.abc import Mapping, Sequence

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.data.settings import DataSettings
from cxr_diffusion_jax.encoders.extractors import extractor as extractor_lib
from cxr_diffusion_jax.encoders.extractors import networks, published
from cxr_diffusion_jax.encoders.extractors.extractor import Extractor, extract
from cxr_diffusion_jax.encoders.probes import probe as probe_lib

__all__ = ("AUTO", "NAMES", "Extractor", "extract", "open_extractors")

NAMES = ("probe", "rad_dino", "clip", "elixr_c", "inception", "densenet")
AUTO = "auto"


def open_extractors(
  names: Sequence[str] | str,
  *,
  settings: DataSettings | None = None,
  probe: probe_lib.Probe | None = None,
  weights: Mapping[str, str] | None = None,
) -> tuple[list[Extractor], dict[str, str]]:
  """Opens extractors.

  Args:
    weights: name -> a folder or an id on the hub, or the file of "inception" and
      "densenet".

  Returns:
    The extractors in the order of `NAMES`, and for "auto" the reasons why others are
    unavailable.

  Raises:
    errors.InputError: an unknown name, a named extractor that is unavailable, or
      weights that do not fit.
  """
  weights = weights or {}
  wanted = {names} if isinstance(names, str) else set(names)
  auto = wanted == {AUTO}
  wanted = set(NAMES) if auto else wanted
  unknown = sorted((wanted | set(weights)) - set(NAMES))
  if unknown or not wanted:
    raise errors.InputError(
      f"features {', '.join(unknown) or '(none)'}",
      f"{AUTO}, or some of {', '.join(NAMES)}",
    )
  opened, skipped = [], {}
  for name in NAMES:
    if name not in wanted:
      continue
    result = _open(name, settings, probe, weights.get(name, ""), not auto)
    if isinstance(result, Extractor):
      opened.append(result)
    elif auto:
      skipped[name] = result
    else:
      raise errors.InputError(f"no {name} features: {result}")
  return opened, skipped


def _open(
  name: str,
  settings: DataSettings | None,
  probe: probe_lib.Probe | None,
  location: str,
  download: bool,
) -> Extractor | str:
  """An extractor, or why there is none."""
  match name:
    case "probe":
      return _of_probe(probe) if probe else "no probe was trained on these images"
    case "rad_dino":
      return published.open_rad_dino(location, download)
    case "clip":
      return published.open_clip(location, settings)
    case "elixr_c":
      return published.open_elixr_c(location, settings)
    case _:
      return networks.open_network(name, location)


def _of_probe(probe: probe_lib.Probe) -> Extractor:
  """The features that the probe's logits are linear in."""

  def features_fn(params, images):
    return probe.features_fn(params, extractor_lib.resize(images, probe.image_size))

  return extractor_lib.of_network(
    name="probe",
    layer="global mean and maximum pool",
    standin=True,
    width=probe.params["head"]["kernel"].shape[0],
    images_a_device=probe.batch_size,
    features_fn=features_fn,
    params=probe.params,
  )
