"""The files of a BERT: located in a folder or on the hub, read into parameters.

name --> folder with config.json, tokenizer and weights
weights --without prefix and heads, axes--> the tree of the Flax module, float32

Of the same form: BERT (Devlin et al., 1810.04805), RoBERTa (Liu et al., 1907.11692) and
CXR-BERT (Boecking et al., 2204.09817), a BERT with a projection head that is not read.
"""

import dataclasses
import pathlib
from types import MappingProxyType

from cxr_diffusion_jax import artifacts, errors, types
from cxr_diffusion_jax.encoders import hub, weights
from cxr_diffusion_jax.interop import names
from cxr_diffusion_jax.interop.safetensors_folder import CONFIG, read_json

_EXAMPLE = "microsoft/BiomedVLP-CXR-BERT-specialized"

_BYTE_PAIRS = (("tokenizer.json",), ("vocab.json", "merges.txt"))
_WORD_PIECES = (("tokenizer.json",), ("vocab.txt",))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Kind:
  """A kind of model in config.json.

  Attributes:
    family: beginning of transformers' names of its classes.
    prefix: of its weights' names, where they come with heads.
    tokenizers: files of its tokenizer, in any of these forms.
  """

  family: str
  prefix: str
  tokenizers: tuple[tuple[str, ...], ...]


_BERT = Kind(family="Bert", prefix="bert.", tokenizers=_WORD_PIECES)
KINDS = MappingProxyType(
  {
    "bert": _BERT,
    "cxr-bert": _BERT,
    "roberta": Kind(family="Roberta", prefix="roberta.", tokenizers=_BYTE_PAIRS),
  }
)

# What transformers takes where config.json does not say it.
_SIZES = MappingProxyType(
  {
    "vocab_size": 30522,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "max_position_embeddings": 512,
  }
)
_LARGEST = 10**6
_ACTIVATIONS = (
  *("gelu", "gelu_new", "gelu_pytorch_tanh", "quick_gelu"),
  *("relu", "silu", "swish", "tanh"),
)
_COPY = "download or copy the folder again, weights and config.json together"

# The parts of the network that are read; others are heads and poolers.
_PARTS = ("embeddings.", "encoder.")
# Constant tables that old files carry.
_BUFFERS = (".position_ids", ".token_type_ids")
# As TensorFlow names the parameters of a norm, in files that began there.
_OLD_NORM = (
  ("LayerNorm.gamma", "LayerNorm.weight"),
  ("LayerNorm.beta", "LayerNorm.bias"),
)


def resolve(name: str) -> pathlib.Path:
  """Returns the folder that holds a BERT; an id on the hub is downloaded once.

  Raises:
    errors.InputError: no such folder, no such id that can be reached, or an id whose
      weights are a pickle.
  """

  def fetch() -> pathlib.Path:
    cached = hub.cached(name, (CONFIG,))
    if cached is not None and weights.are_whole(cached) and _has_tokenizer(cached):
      return cached
    present = hub.files(name)
    forms = weights.to_download(present)
    if not forms and "pytorch_model.bin" in present:
      raise pickled(name)
    return hub.download(name, ["*.json", "vocab.txt", "merges.txt", *forms])

  return weights.resolve(name, "BERT", _EXAMPLE, fetch)


def find_config(name: str) -> pathlib.Path:
  """Returns config.json alone of a BERT, from the hub if need be; see `resolve`."""
  return weights.find_config(name, "BERT", _EXAMPLE)


def pickled(name: str) -> errors.InputError:
  """The error of a model whose only weights are PyTorch's pickle.

  Its own classes are not needed to convert it, so no code of the model is run.
  """
  return errors.InputError(
    f"{name} has its weights in pytorch_model.bin only, a pickle, which runs code when"
    " it is read",
    "weights in safetensors",
    "convert them where PyTorch and transformers are installed and their source is"
    ' trusted: python -c "from transformers import BertModel, BertTokenizerFast;'
    f" [x.from_pretrained('{name}').save_pretrained('NEW_FOLDER') for x in"
    ' (BertModel, BertTokenizerFast)]" (of a RoBERTa: RobertaModel,'
    " RobertaTokenizerFast); then name NEW_FOLDER",
  )


def read_config(path: pathlib.Path) -> artifacts.Json:
  """Reads config.json.

  Raises:
    errors.InputError: not JSON, of another kind of model, or sizes of none.
  """
  config = read_json(path)
  kind = config.get("model_type")
  # A list, which no dict looks up, is no kind either.
  if str(kind) not in KINDS:
    raise errors.InputError(
      f"{path} describes a model of type {kind!r}",
      f"one of {', '.join(KINDS)}",
      "name the folder or id of such a model",
    )
  if config.get("position_embedding_type", "absolute") != "absolute":
    raise errors.InputError(
      f"{path} has {config['position_embedding_type']!r} positions", "'absolute'"
    )
  sizes = {name: config.get(name, size) for name, size in _SIZES.items()}
  if config["model_type"] == "roberta":
    sizes["pad_token_id"] = config.get("pad_token_id", 1)
  for name, size in sizes.items():
    if type(size) is not int or not 1 <= size <= _LARGEST:
      raise errors.InputError(
        f"{path} has {name} {size!r}", f"1 to {_LARGEST:,}", _COPY
      )
  if sizes["hidden_size"] % sizes["num_attention_heads"]:
    raise errors.InputError(
      f"{path} has {sizes['num_attention_heads']} heads of {sizes['hidden_size']}",
      "a number of heads that divides hidden_size",
      _COPY,
    )
  if positions(config) < 1:
    raise errors.InputError(f"{path} has positions for no token", "1 or more", _COPY)
  if (activation := config.get("hidden_act", "gelu")) not in _ACTIVATIONS:
    raise errors.InputError(
      f"{path} has hidden_act {activation!r}",
      f"one of {', '.join(_ACTIVATIONS)}",
      _COPY,
    )
  return config


def positions(config: artifacts.JsonMapping) -> int:
  """The most tokens that a model reads at once; RoBERTa's begin after the padding's."""
  longest = config.get("max_position_embeddings", 512)
  is_roberta = config.get("model_type") == "roberta"
  return longest - config.get("pad_token_id", 1) - 1 if is_roberta else longest


def check(folder: pathlib.Path) -> Kind:
  """The kind of model in a folder with a configuration and a tokenizer.

  Raises:
    errors.InputError: one of them, or the weights, is absent, damaged, or of another
      kind of model.
  """
  kind = KINDS[read_config(folder / CONFIG)["model_type"]]
  if not weights.has_one_of(folder, kind.tokenizers):
    raise errors.InputError(
      f"no tokenizer in {folder}",
      " or ".join(" and ".join(files) for files in kind.tokenizers),
      "copy the tokenizer of the model that it was trained from into it",
    )
  for pattern in ("*token*.json", "vocab.json"):
    for file in sorted(folder.glob(pattern)):
      read_json(file)
  if not any((folder / form).is_file() for form in weights.FORMS):
    if (folder / "pytorch_model.bin").is_file():
      raise pickled(str(folder))
    raise weights.absent(folder)
  return kind


def read_params(folder: pathlib.Path, kind: Kind, shapes: types.Params) -> types.Params:
  """Reads the weights of a folder as a tree of float32 arrays of these shapes.

  Raises:
    errors.InputError: no weights in a readable form, or a weight of the embeddings or
      layers that is missing, unknown or of the wrong shape.
  """
  stored = {}
  for name, array in weights.read(folder).items():
    own = name.removeprefix(kind.prefix)
    for old, new in _OLD_NORM:
      own = own.replace(old, new)
    if own.startswith(_PARTS) and not own.endswith(_BUFFERS):
      stored[own] = array
  return names.fit(stored, shapes, str(folder), _COPY)


def _has_tokenizer(folder: pathlib.Path) -> bool:
  return any(weights.has_one_of(folder, kind.tokenizers) for kind in KINDS.values())
