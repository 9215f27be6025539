"""Feature extractors against torch-fidelity's Inception, torchvision's DenseNet-121 and
transformers' DINOv2 and CLIP: the same weights, the same bytes of images.

random weights -> safetensors, as a user converts them -> open_extractors -> extract

No trained weights are needed: names, axes, pools and sizes are what could be wrong.
"""

from collections.abc import Iterator
import pathlib
import tempfile
from unittest import mock

import numpy as np
import safetensors.torch
import torch
from torch.nn import functional
from torch_fidelity import feature_extractor_inceptionv3 as fidelity_inception
import torchvision
import transformers

from cxr_diffusion_jax.encoders.extractors import opening as features

LIMIT = 1e-4

# Height and width of images: smaller and larger than the networks' own.
SIZES = ((64, 64), (299, 299), (384, 320))

Row = tuple[str, float, float, float, float]


def rows() -> Iterator[Row]:
  """Yields the comparisons of all networks."""
  for network in (_inception, _densenet, _dino, _clip):
    with tempfile.TemporaryDirectory() as scratch, torch.no_grad():
      yield from network(pathlib.Path(scratch))


def _inception(folder: pathlib.Path) -> Iterator[Row]:
  peer_type = fidelity_inception.FeatureExtractorInceptionV3
  # Its weights are downloaded and loaded where it is made.
  with (
    mock.patch.object(fidelity_inception, "load_state_dict_from_url"),
    mock.patch.object(peer_type, "load_state_dict"),
  ):
    peer = peer_type("inception", ["2048"])
  extractor = _converted("inception", _randomise(peer), folder)
  for size in SIZES:
    images = _images(size)
    (theirs,) = peer(_channels_first(images).expand(-1, 3, -1, -1))
    yield _row(f"Inception 2048, {size[0]}x{size[1]}", extractor, images, theirs)


def _densenet(folder: pathlib.Path) -> Iterator[Row]:
  peer = torchvision.models.densenet121(num_classes=18)
  peer.features.conv0 = torch.nn.Conv2d(1, 64, 7, stride=2, padding=3, bias=False)
  extractor = _converted("densenet", _randomise(peer), folder)
  for size in ((224, 224), *SIZES):
    images = _images(size)
    x = functional.interpolate(
      _channels_first(images).float(), (224, 224), mode="bilinear", antialias=True
    )
    maps = functional.relu(peer.features((2 * x / 255 - 1) * 1024))
    theirs = maps.mean(dim=(2, 3))
    yield _row(f"DenseNet-121, {size[0]}x{size[1]}", extractor, images, theirs)


def _dino(folder: pathlib.Path) -> Iterator[Row]:
  config = transformers.Dinov2Config(
    hidden_size=32, num_hidden_layers=3, num_attention_heads=2, image_size=28
  )
  peer = _randomise(transformers.Dinov2Model(config))
  pixels = _save(peer, folder)
  images = _images((28, 28))
  (extractor,), _ = features.open_extractors(
    ["rad_dino"], weights={"rad_dino": str(folder)}
  )
  theirs = peer(pixels(images)).pooler_output
  yield _row("DINOv2, class token after the norm", extractor, images, theirs)


def _clip(folder: pathlib.Path) -> Iterator[Row]:
  small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
  small["num_attention_heads"] = 2
  config = transformers.CLIPConfig(
    text_config={**small, "vocab_size": 20, "eos_token_id": 19},
    vision_config={**small, "image_size": 32, "patch_size": 8},
    projection_dim=16,
  )
  peer = _randomise(transformers.CLIPModel(config))
  pixels = _save(peer, folder)
  images = _images((32, 32))
  (extractor,), _ = features.open_extractors(["clip"], weights={"clip": str(folder)})
  theirs = peer.get_image_features(pixels(images))
  yield _row("CLIP, image embedding", extractor, images, theirs)


def _row(what: str, extractor: features.Extractor, images: np.ndarray, theirs) -> Row:
  """Relative: the difference's norm over the norm of what tells images apart."""
  ours, theirs = features.extract(extractor, images), theirs.numpy()
  assert ours.shape == theirs.shape, (what, ours.shape, theirs.shape)
  reported = np.linalg.norm(theirs - theirs.mean(axis=0))
  difference = np.linalg.norm(ours - theirs) / reported
  return (
    f"{what} (relative)",
    float(np.linalg.norm(ours)),
    float(np.linalg.norm(theirs)),
    float(difference),
    LIMIT,
  )


def _converted(
  name: str, peer: torch.nn.Module, folder: pathlib.Path
) -> features.Extractor:
  """Ours, with the weights of the peer as they are converted."""
  path = folder / f"{name}.safetensors"
  safetensors.torch.save_file(peer.state_dict(), path)
  (extractor,), _ = features.open_extractors([name], weights={name: str(path)})
  return extractor


def _save(peer: transformers.PreTrainedModel, folder: pathlib.Path):
  """Writes a model of transformers; returns what its processor does to bytes."""
  processor = transformers.CLIPImageProcessor()
  peer.save_pretrained(folder)
  processor.save_pretrained(folder)
  shape = (1, 3, 1, 1)
  mean, std = (
    torch.tensor(value).reshape(shape)
    for value in (processor.image_mean, processor.image_std)
  )
  return lambda images: (_channels_first(images) / 255 - mean) / std


def _randomise(model: torch.nn.Module) -> torch.nn.Module:
  """Draws weights and statistics that keep activations near 1."""
  rng = np.random.default_rng(0)
  with torch.no_grad():
    for name, value in model.state_dict().items():
      if not value.is_floating_point():
        continue
      drawn = rng.normal(size=value.shape)
      if value.ndim > 1:
        drawn *= np.sqrt(2 / np.prod(value.shape[1:]))
      elif name.endswith("running_var"):
        drawn = np.exp(0.3 * drawn)
      else:
        drawn = 0.2 * drawn + name.endswith("weight")
      value.copy_(torch.from_numpy(np.asarray(drawn, np.float32)))
  return model.eval()


def _images(size: tuple[int, int]) -> np.ndarray:
  """Four grey images uint8 [h w 1]: smooth, and some noise."""
  rng = np.random.default_rng(1)
  y, x = np.mgrid[: size[0], : size[1]] / 20
  waves = [np.sin(a * x + b * y) for a, b in rng.uniform(0.1, 2, (4, 2))]
  noisy = np.array(waves) + 0.3 * rng.normal(size=(4, *size))
  return np.clip(noisy * 80 + 128, 0, 255).astype(np.uint8)[..., None]


def _channels_first(images: np.ndarray) -> torch.Tensor:
  """[b h w c] -> [b c h w]."""
  return torch.from_numpy(images.transpose(0, 3, 1, 2))
