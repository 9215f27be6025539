"""Classifiers of findings that others have trained.

images --extractor--> features [n d] --head--> scores [n m] of named findings

densenet           torchxrayvision's DenseNet-121: 18 logits, linear in its features
NAME.onnx          a user's network
NAME.safetensors   a user's weights of one of `ARCHITECTURES`, as PyTorch names them

The latter two are read with NAME.json, for example
  {"findings": ["Effusion", "Mass", ""], "size": 224, "mean": 0.5, "std": [0.25]}
and of weights also {"architecture": "densenet121"}. One finding an output; "" for
outputs that are not used.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools
from types import MappingProxyType

import jax
import jax.numpy as jnp
import numpy as np

from cxr_diffusion_jax import errors, naming
from cxr_diffusion_jax.data import labels as labels_lib
from cxr_diffusion_jax.encoders.extractors import extractor as extractor_lib
from cxr_diffusion_jax.encoders.extractors import networks, onnx_network, user_network
from cxr_diffusion_jax.encoders.extractors.extractor import Extractor
from cxr_diffusion_jax.interop import names as torch_names
from cxr_diffusion_jax.models import frozen_networks

WEIGHTS = ".safetensors"

# Number of findings -> a network: images [b h w c] -> features, logits.
ARCHITECTURES: Mapping[str, Callable[[int], frozen_networks.DenseNet]] = (
  MappingProxyType(
    {"densenet121": lambda num: frozen_networks.DenseNet(num_outputs=num)}
  )
)

# The first convolution, whose input has the images' channels.
_FIRST = "features.conv0.weight"

_IMAGES_A_DEVICE = 16

_EXAMPLE = '{"findings": ["Effusion", "Mass"], "size": 224, "mean": 0.5, "std": 0.25}'
_EXAMPLE_OF_WEIGHTS = f'{{"architecture": "densenet121", {_EXAMPLE[1:]}'

# Names in other datasets -> torchxrayvision's, which renames them so too.
_ALIASES = MappingProxyType(
  {"pleural_effusion": "Effusion", "airspace_opacity": "Lung Opacity"}
)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Classifier:
  """A network that scores findings.

  Attributes:
    title: its name in tables.
    findings: names of the m scores; "" for one that means nothing.
    head_fn: features of the extractor [n d] -> scores [n m], higher where seen.
  """

  title: str
  extractor: Extractor
  findings: tuple[str, ...]
  head_fn: Callable[[np.ndarray], np.ndarray]

  def places(self, vocabulary: Sequence[str]) -> dict[int, int]:
    """Column in a dataset's vocabulary -> column of the scores, of shared findings."""
    known = {_plain(name): m for m, name in enumerate(self.findings) if name}
    names = {k: _plain(name) for k, name in enumerate(vocabulary)}
    return {k: known[name] for k, name in names.items() if name in known}


def open_classifiers(
  weights: Mapping[str, str] | None,
  extractors: Sequence[Extractor] = (),
  files: Sequence[str] = (),
) -> list[Classifier]:
  """Opens the classifiers that the user has given.

  Args:
    weights: extractor -> its file, as for `open_extractors`.
    extractors: those that are open already, whose parameters are shared.
    files: of classifiers, NAME.onnx or NAME.safetensors each.

  Raises:
    errors.InputError: weights or files that do not fit, or two files of one name.
  """
  location = (weights or {}).get("densenet", "")
  opened = [densenet(location, extractors)] if location else []
  opened += [
    (of_weights if file.endswith(WEIGHTS) else of_onnx)(file) for file in files
  ]
  titles = [one.title for one in opened]
  if len(set(titles)) < len(titles):
    raise errors.InputError(f"{', '.join(files)}", "files of different names")
  return opened


def of_onnx(location: str) -> Classifier:
  """A user's classifier NAME.onnx; raises InputError for one that does not fit."""
  suffixes = (onnx_network.SUFFIX, WEIGHTS)
  described = user_network.read(location, suffixes, ("findings",), _EXAMPLE)
  findings = _findings(described, _EXAMPLE)
  network = onnx_network.open_network(
    described, "one score a finding", lambda one: one == (len(findings),)
  )
  return Classifier(
    title=f"{described.network.stem}, ONNX",
    extractor=onnx_network.as_extractor(described, network, "scores"),
    findings=findings,
    head_fn=lambda scores: scores,
  )


def of_weights(location: str) -> Classifier:
  """A user's weights NAME.safetensors of a network of `ARCHITECTURES`.

  Raises:
    errors.InputError: an unknown architecture, or names or shapes that do not fit it.
  """
  keys = ("architecture", "findings")
  described = user_network.read(location, (WEIGHTS,), keys, _EXAMPLE_OF_WEIGHTS)
  findings = _findings(described, _EXAMPLE_OF_WEIGHTS)
  architecture = str(described.values["architecture"])
  try:
    make = naming.choose("architecture", architecture, ARCHITECTURES)
  except errors.InputError as error:
    raise errors.InputError(f"{described.path}: {error}") from error
  module, path = make(len(findings)), described.network
  stored = networks.read_stored(path)
  channels = stored[_FIRST].shape[1] if _FIRST in stored else 1
  try:
    described.check_channels(channels)
  except ValueError as error:
    raise errors.InputError(f"{path} does not fit {described.path}: {error}") from error
  side = described.size
  like = jax.ShapeDtypeStruct((1, side, side, channels), jnp.float32)
  shapes = jax.eval_shape(module.init, jax.random.key(0), like)["params"]
  fix = f"a state dict of {architecture} with {len(findings)} outputs"
  extractor = extractor_lib.of_network(
    name=f"weights-{path.stem}",
    layer="logits",
    standin=False,
    width=len(findings),
    images_a_device=_IMAGES_A_DEVICE,
    features_fn=lambda params, images: jnp.asarray(
      module.apply({"params": params}, described.normalised(images, channels))[1]
    ),
    params=torch_names.fit(stored, shapes, str(path), fix),
  )
  return Classifier(
    title=f"{path.stem}, {architecture}",
    extractor=dataclasses.replace(extractor, fingerprint=described.fingerprint),
    findings=findings,
    head_fn=lambda logits: logits,
  )


def densenet(location: str, extractors: Sequence[Extractor] = ()) -> Classifier:
  """torchxrayvision's DenseNet-121, of the file of its weights."""
  opened = {one.name: one for one in extractors}.get("densenet")
  extractor = opened or networks.open_network("densenet", location)
  assert isinstance(extractor, Extractor)
  return Classifier(
    title="densenet, torchxrayvision's logits",
    extractor=extractor,
    findings=networks.densenet_findings(location),
    head_fn=functools.partial(networks.densenet_logits, extractor.params),
  )


def _findings(described: user_network.Description, example: str) -> tuple[str, ...]:
  """The findings that a JSON file names, one an output."""
  findings = described.values["findings"]
  texts = isinstance(findings, list) and all(isinstance(x, str) for x in findings)
  if not texts or not any(findings):
    raise described.refused(example)
  return tuple(findings)


def _plain(name: str) -> str:
  """A name without regard to case and underscores."""
  plain = labels_lib.plain(name)
  return labels_lib.plain(_ALIASES.get(plain, plain))
