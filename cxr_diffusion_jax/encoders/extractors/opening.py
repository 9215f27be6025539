"""Opens feature extractors by name, or all that are available.

names, weights -> [Extractor, ...], {name: why it is unavailable}
extract(extractor, images) --batches, kept on disk--> features [n d]

probe     global mean and maximum pool     (this project's classifier of findings)
rad_dino  class token after the norm       (RAD-DINO, 2401.10815)
clip      embedding shared with the texts  (CLIP, 2103.00020, as CMMD uses it)
elixr_c   mean of the 8x8 map              (ELIXR-C, 2308.01317)
inception, densenet                        see `networks`

A distance between sets of images is one between their features: every figure depends on
the network and the layer.
"""

from collections.abc import Callable, Mapping, Sequence
import hashlib
import importlib.util
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from cxr_diffusion_jax import artifacts, errors
from cxr_diffusion_jax.data.settings import DataSettings
from cxr_diffusion_jax.encoders import base as encoder_lib
from cxr_diffusion_jax.encoders import hub, image_features
from cxr_diffusion_jax.encoders.elixr import model as elixr_model
from cxr_diffusion_jax.encoders.elixr import saved_model as elixr_saved_model
from cxr_diffusion_jax.encoders.elixr.files.file import SHAPES
from cxr_diffusion_jax.encoders.extractors import extractor as extractor_lib
from cxr_diffusion_jax.encoders.extractors import networks
from cxr_diffusion_jax.encoders.extractors.extractor import Extractor, extract
from cxr_diffusion_jax.encoders.probes import probe as probe_lib
from cxr_diffusion_jax.encoders.standin import elixr as standin_elixr

__all__ = ("AUTO", "NAMES", "Extractor", "clip_place", "extract", "open_extractors")

NAMES = ("probe", "rad_dino", "clip", "elixr_c", "inception", "densenet")
AUTO = "auto"

RAD_DINO, *CLIPS = image_features.KNOWN

# `image_features.load` loads both kinds and names the layer of what it loaded.
_DINO_LAYER, _CLIP_LAYER = "class token after the norm", "image embedding"

# For one device; RAD-DINO's attention of 1370 places takes 100 MB an image.
_DINO_IMAGES, _CLIP_IMAGES = 8, 32


def open_extractors(
  names: Sequence[str] | str,
  *,
  settings: DataSettings | None = None,
  probe_fn: Callable[[], probe_lib.Probe | None] = lambda: None,
  weights: Mapping[str, str] | None = None,
) -> tuple[list[Extractor], dict[str, str]]:
  """Opens extractors.

  Args:
    probe_fn: returns the probe, if there is one; called when all others are open, as
      it may train it.
    weights: name -> a folder or an id on the hub, or the file of "inception" and
      "densenet".

  Returns:
    The extractors in the order of `NAMES`, and for "auto" why others are unavailable.

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
  # The probe, which is first in order, is opened last.
  for name in (*NAMES[1:], NAMES[0]):
    if name not in wanted:
      continue
    result = _open(name, settings, probe_fn, weights.get(name, ""), not auto)
    if isinstance(result, Extractor):
      opened.append(result)
    elif auto:
      skipped[name] = result
    else:
      raise errors.InputError(f"no {name} features: {result}")
  return sorted(opened, key=lambda one: NAMES.index(one.name)), skipped


def _open(
  name: str,
  settings: DataSettings | None,
  probe_fn: Callable[[], probe_lib.Probe | None],
  location: str,
  download: bool,
) -> Extractor | str:
  """An extractor, or why there is none.

  `location` is a folder or an id on the hub, which may be downloaded; "" for local
  models.
  """
  match name:
    case "probe":
      probe = probe_fn()
      return _of_probe(probe) if probe else "no probe was trained on these images"
    case "rad_dino":
      return _open_rad_dino(location, download)
    case "clip":
      return _open_clip(location, settings)
    case "elixr_c":
      return _open_elixr_c(location, settings)
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


def _open_rad_dino(location: str, download: bool) -> Extractor | str:
  """RAD-DINO or another DINOv2; `download` allows to fetch what is not in the cache."""
  name = location or RAD_DINO
  if not (location or download) and image_features.find(name) is None:
    return f"{name} is not in the hub's cache; ask for it by name to download it"
  return _of_encoder("rad_dino", name, _DINO_LAYER, _DINO_IMAGES)


def _open_clip(location: str, settings: DataSettings | None) -> Extractor | str:
  """A published CLIP's vision model, else the stand-in of the records."""
  place = clip_place(location, settings)
  if not place:
    return (
      f"neither {' nor '.join(CLIPS)} is in the hub's cache, and there is no stand-in;"
      f" name one to download it: clip={CLIPS[0]}"
    )
  return _of_encoder("clip", place, _CLIP_LAYER, _CLIP_IMAGES)


def clip_place(location: str, settings: DataSettings | None) -> str:
  """Folder or id of the CLIP that `clip` features are of; "" where there is none."""
  name = location or next(
    (one for one in CLIPS if image_features.find(one) is not None), ""
  )
  return name or str(_standin_clip(settings) or "")


def _open_elixr_c(location: str, settings: DataSettings | None) -> Extractor | str:
  """ELIXR-C if its SavedModel is available, else the stand-in of the records.

  Real images are encoded again, as generated ones are: embeddings that come with a
  dataset are of larger files, and sizes would add to the distance. `location` is a
  folder of the SavedModels or of a stand-in CLIP, or an id.
  """
  folder = pathlib.Path(location).expanduser() if location else _standin_clip(settings)
  if not location:
    models = _cached_elixr()
    if models is not None and importlib.util.find_spec("tensorflow") is not None:
      return _of_elixr(elixr_model.load(models), 4)
    if folder is None:
      return (
        f"{elixr_saved_model.HUB_ID} is not in the hub's cache, or TensorFlow is not"
        " installed, and there is no stand-in; name it to download it:"
        f" elixr_c={elixr_saved_model.HUB_ID}"
      )
  elif not (pathlib.Path(location).expanduser() / "config.json").is_file():
    return _of_elixr(elixr_model.load(location), 4)
  assert folder is not None
  return _of_elixr(standin_elixr.load(folder), 64)


def _of_encoder(
  name: str, location: str, layer: str, images_a_device: int
) -> Extractor:
  """A DINOv2 or a CLIP of `image_features`."""
  loaded = image_features.load(location)
  if loaded.layer != layer:
    raise errors.InputError(
      f"{name}={location} has {loaded.layer!r}",
      f"a model with {layer!r}: {'a DINOv2' if layer == _DINO_LAYER else 'a CLIP'}",
    )

  def features_fn(params, images):
    return loaded.apply_fn(params, images / 127.5 - 1)[1]

  config = pathlib.Path(location).expanduser() / "config.json"
  standin = config.is_file() and bool(artifacts.read_json(config).get("standin"))
  published = RAD_DINO if name == "rad_dino" else ""
  if standin:
    layer = f"{layer} of a stand-in"
  elif location != published:
    layer = f"{layer} of {location.rstrip('/').rpartition('/')[2]}"
  like = jax.ShapeDtypeStruct((1, 8, 8, 1), jnp.float32)
  return extractor_lib.of_network(
    name=name,
    layer=layer,
    standin=standin,
    width=jax.eval_shape(features_fn, loaded.params, like).shape[-1],
    images_a_device=images_a_device,
    features_fn=features_fn,
    params=loaded.params,
  )


def _of_elixr(encoder: encoder_lib.Encoder, batch_size: int) -> Extractor:
  """An encoder that maps images [h w] to ELIXR-C maps."""

  def apply_fn(params, images):
    del params
    planes: Sequence[np.ndarray] = list(np.asarray(images)[..., 0])
    maps = encoder.encode_images(["elixrc"], planes)["elixrc"]
    return np.asarray(maps, np.float32).mean(axis=(1, 2))

  facts = (extractor_lib.FORMAT, encoder.description)
  return Extractor(
    name="elixr_c",
    layer="mean of the 8x8 map",
    standin=encoder.standin,
    fingerprint=hashlib.sha256(repr(facts).encode()).hexdigest()[:16],
    width=SHAPES["elixrc"][-1],
    batch_size=batch_size,
    apply_fn=apply_fn,
  )


def _standin_clip(settings: DataSettings | None) -> pathlib.Path | None:
  """The folder of the stand-in CLIP, if there is one."""
  if settings is None or not (settings.standin_clip / "config.json").is_file():
    return None
  return settings.standin_clip


def _cached_elixr() -> pathlib.Path | None:
  """The folder of ELIXR's SavedModels in the hub's cache."""
  file = f"{elixr_saved_model.IMAGE_MODEL}/saved_model.pb"
  model = hub.cached(elixr_saved_model.HUB_ID, (file,))
  return model.parent if model else None
