"""Published encoders of images, and this project's stand-ins, as extractors.

rad_dino  class token after the norm       (RAD-DINO, 2401.10815)
clip      embedding shared with the texts  (CLIP, 2103.00020, as CMMD uses it)
elixr_c   mean of the 8x8 map              (ELIXR-C, 2308.01317)

A function here returns an extractor, or the reason why none is available locally.
"""

from collections.abc import Sequence
import hashlib
import importlib.util
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from cxr_diffusion_jax import artifacts, errors
from cxr_diffusion_jax.data.settings import DataSettings
from cxr_diffusion_jax.encoders import base as encoder_lib
from cxr_diffusion_jax.encoders import image_features
from cxr_diffusion_jax.encoders.elixr import model as elixr_model
from cxr_diffusion_jax.encoders.elixr import saved_model as elixr_saved_model
from cxr_diffusion_jax.encoders.elixr.files import reader as elixr
from cxr_diffusion_jax.encoders.extractors import extractor as extractor_lib
from cxr_diffusion_jax.encoders.extractors.extractor import Extractor
from cxr_diffusion_jax.encoders.standin import elixr as standin_elixr

RAD_DINO = "microsoft/rad-dino"
CLIPS = ("openai/clip-vit-large-patch14", "openai/clip-vit-base-patch32")

# `image_features.load` loads both kinds and names the layer of what it loaded.
_DINO_LAYER, _CLIP_LAYER = "class token after the norm", "image embedding"

# For one device; RAD-DINO's attention of 1370 places takes 100 MB an image.
_DINO_IMAGES, _CLIP_IMAGES = 8, 32


def open_rad_dino(location: str, download: bool) -> Extractor | str:
  """RAD-DINO, or another DINOv2.

  Args:
    download: whether an id that is not in the hub's cache may be fetched.
  """
  name = location or RAD_DINO
  if not (location or download) and image_features.find(name) is None:
    return f"{name} is not in the hub's cache; ask for it by name to download it"
  return _of_encoder("rad_dino", name, _DINO_LAYER, _DINO_IMAGES)


def open_clip(location: str, settings: DataSettings | None) -> Extractor | str:
  """A published CLIP's vision model, else the stand-in of the records.

  Args:
    location: a folder or an id, which may be downloaded; "" for local models.
  """
  name = location or next(
    (one for one in CLIPS if image_features.find(one) is not None), ""
  )
  folder = _standin_clip(settings)
  if not name and folder is None:
    return (
      f"neither {' nor '.join(CLIPS)} is in the hub's cache, and there is no stand-in;"
      f" name one to download it: clip={CLIPS[0]}"
    )
  return _of_encoder("clip", name or str(folder), _CLIP_LAYER, _CLIP_IMAGES)


def open_elixr_c(location: str, settings: DataSettings | None) -> Extractor | str:
  """ELIXR-C if its SavedModel is available, else the stand-in of the records.

  Real images are encoded again, as generated ones are: embeddings that come with a
  dataset are of larger files, and sizes would add to the distance.

  Args:
    location: a folder of the SavedModels or of a stand-in CLIP, or an id on the hub
      that may be downloaded; "" for local models.
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
    width=elixr.SHAPES["elixrc"][-1],
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
  import huggingface_hub

  file = f"{elixr_saved_model.IMAGE_MODEL}/saved_model.pb"
  path = huggingface_hub.try_to_load_from_cache(elixr_saved_model.HUB_ID, file)
  return pathlib.Path(path).parents[1] if isinstance(path, str) else None
