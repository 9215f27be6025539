"""BERT as a frozen encoder of texts, from a folder or the hub.

  prompts --its own tokenizer--> [start, words, end, padding]: ids, mask [n k l]
    --embeddings and layers--> states [n k*l d]; state 0 of a window is its [CLS]

The maths is transformers' Flax modules. The weights may have been written by Flax or by
PyTorch, which is not needed to read them; see `bert.files`.
"""

from collections.abc import Callable, Sequence
import dataclasses
import os
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from cxr_diffusion_jax import errors, types
from cxr_diffusion_jax.encoders import weights
from cxr_diffusion_jax.encoders.bert import files as bert_files
from cxr_diffusion_jax.encoders.clip import inputs as clip_inputs
from cxr_diffusion_jax.encoders.clip import model as clip_model
from cxr_diffusion_jax.parallel import batches

if TYPE_CHECKING:
  import pathlib

  import transformers

# Tokens of one of `config.conditioning.chunks`.
CHUNK = 128


@dataclasses.dataclass(frozen=True, kw_only=True)
class BertModel:
  """A BERT ready to encode.

  Attributes:
    name: the folder or the hub's id that it came from.
    positions: the most tokens that it reads at once.
    tokenizer: transformers' fast tokenizer.
    text_fn: compiled (params, ids [n l], mask [n l]) -> last hidden state [n l d].
  """

  name: str
  config: "transformers.PretrainedConfig"
  positions: int
  params: types.Params
  tokenizer: clip_inputs.Tokenizer
  text_fn: Callable[[types.Params, types.Array, types.Array], jax.Array]


def load(name: str | os.PathLike) -> BertModel:
  """Loads a BERT with its tokenizer.

  Args:
    name: a folder written by `save_pretrained` (Flax msgpack, or safetensors of Flax or
      PyTorch, sharded or not), or an id on the hub.

  Raises:
    errors.InputError: nothing there, another kind of model, or a tokenizer or weights
      that are missing or do not fit config.json.
  """
  folder = bert_files.resolve(os.fspath(name))
  kind = bert_files.check(folder)
  transformers = clip_model.library()
  values = bert_files.read_config(folder / bert_files.CONFIG)
  # CXR-BERT's configuration is a BERT's, under another name.
  with weights.described(folder):
    config = getattr(transformers, f"{kind.family}Config").from_dict(values)
    module_class = getattr(transformers, f"Flax{kind.family}Model").module_class
    module = module_class(config=config, add_pooling_layer=False)
  is_roberta = kind.family == "Roberta"

  def inputs(ids, mask):
    places = jnp.broadcast_to(jnp.arange(ids.shape[1]), ids.shape)
    if is_roberta:
      # Its padding has a position of its own, and texts begin after it.
      places = jnp.where(mask > 0, places + 1, 0) + config.pad_token_id
    return ids, mask, jnp.zeros_like(ids), places

  def text(params, ids, mask):
    given = inputs(ids, mask.astype(jnp.int32))
    return module.apply({"params": params}, *given).last_hidden_state

  ids = jax.ShapeDtypeStruct((1, 2), jnp.int32)
  with weights.described(folder):
    shapes = jax.eval_shape(
      lambda key, ids: module.init(key, *inputs(ids, jnp.ones_like(ids))),
      jax.random.key(0),
      ids,
    )["params"]
  return BertModel(
    name=os.fspath(name),
    config=config,
    positions=bert_files.positions(values),
    params=bert_files.read_params(folder, kind, shapes),
    tokenizer=_load_tokenizer(
      getattr(transformers, f"{kind.family}TokenizerFast"), folder, config.vocab_size
    ),
    text_fn=jax.jit(text),
  )


def windows(positions: int, chunks: int) -> tuple[int, int]:
  """Number and length of the windows that `chunks` of 128 tokens are read in.

  A text is read at once, as far as the model's positions allow.
  """
  wanted = chunks * CHUNK
  return -(-wanted // positions), min(wanted, positions)


def encode(
  model: BertModel, prompts: Sequence[str], *, chunks: int = 1, batch_size: int = 32
) -> tuple[np.ndarray, np.ndarray]:
  """Encodes n prompts.

  Args:
    chunks: multiples of 128 tokens that a prompt may fill; the rest is cut, with a
      warning. They are k windows of l tokens, see `windows`.
    batch_size: windows in one call of the compiled function.

  Returns:
    states [n k l d] float32 (the last hidden state; zeros in windows without a word),
    and mask [n k l] bool (True up to and including the end token of each window that
    has a word, and of the first).
  """
  if not len(prompts):
    raise ValueError("nothing to encode: got no prompts, expected at least one")
  num, length = windows(model.positions, chunks)
  ids, mask = clip_inputs.windows(
    model.tokenizer,
    prompts,
    max_tokens=length,
    chunks=num,
    frame=(model.tokenizer.cls_token_id, model.tokenizer.sep_token_id),
    unit=CHUNK,
  )
  used = mask.any(axis=-1)
  given, shown = ids[used], mask[used]
  states = batches.in_batches(
    lambda rows: model.text_fn(model.params, given[rows], shown[rows]),
    len(given),
    batch_size,
    powers=True,
  )
  tokens = np.zeros((*mask.shape, states.shape[-1]), np.float32)
  tokens[used] = states
  return tokens, mask


def describe(model: BertModel) -> str:
  """Returns a line for descriptions of what was made with the model."""
  size = weights.millions(model.params)
  return f"BERT {model.name} {size} {weights.fingerprint(model.params)}"


def _load_tokenizer(
  loader: "type[transformers.PreTrainedTokenizerFast]",
  folder: "pathlib.Path",
  vocabulary: int,
) -> clip_inputs.Tokenizer:
  """Loads a folder's tokenizer; raises InputError unless it fits `vocabulary` ids."""
  tokenizer = clip_inputs.read_tokenizer(loader, folder)
  ends = tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id
  if len(tokenizer) > vocabulary or None in ends:
    raise errors.InputError(
      f"the tokenizer in {folder} has {len(tokenizer)} ids, and {ends} for start, end"
      " and padding",
      f"at most {vocabulary}, by config.json, and an id for each",
      "take model and tokenizer from one place",
    )
  return tokenizer
