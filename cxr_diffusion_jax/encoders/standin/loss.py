"""The loss of the stand-in CLIP: what an image, its prompt and its findings share.

  loss = InfoNCE(class token, text) + InfoNCE(best of 32 regions, text)
       + findings from the shared space + findings from the patches  (cross-entropy)
       + pixels from the patches  (squared error)

The first two terms are CLIP's (Radford et al., 2103.00020, section 2.3) and BLIP-2's
image-text contrast (Li et al., 2301.12597, section 3.2). A contrast alone learns little
from some hundred images, so one linear head reads the findings from images and texts
alike. The last two keep the patch states informative about what is where. All heads are
thrown away after training.

  tokens [n 1+g*g d] --drop the class token, normalise--> states [n g*g d]
  states --regions [32 g*g]--> [n 32 d]

The regions replace the 32 queries of ELIXR-B's Q-Former (2308.01317): the whole image,
its two sides, and grids of 2x2, 3x3 and 4x4 (1 + 2 + 4 + 9 + 16 = 32).
"""

import functools
import operator

import einops
import jax
import jax.numpy as jnp
import numpy as np
import optax

from cxr_diffusion_jax import types
from cxr_diffusion_jax.encoders.clip import model as clip_model
from cxr_diffusion_jax.encoders.clip import small as clip_small


def losses_of(
  model: clip_model.ClipModel, params: types.Params, batch: types.Batch
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Computes the loss of a batch and its terms.

  Args:
    model: gives the functions; its own parameters are not used.
    params: {"clip": FlaxCLIPModel's tree, "heads": from `make_heads`}.
    batch: image [b s s 1] in [0, 255], ids [b l], findings [b f], nan unknown.

  Returns:
    The sum, and {"contrast", "regions", "meaning", "findings", "pixels", "loss"}.
  """
  clip, heads = params["clip"], params["heads"]
  findings, targets = batch["findings"], same_content(batch["findings"])
  tokens, whole = model.image_fn(clip, batch["image"])
  _, text = model.text_fn(clip, batch["ids"])
  whole, text = _unit(whole), _unit(text)
  states = patch_states(tokens)
  pooled = jnp.einsum("rp,bpd->brd", region_weights(model.grid), states)
  parts = _unit(model.project_fn(clip, pooled))
  scale = jnp.exp(clip["logit_scale"])
  # A finding anywhere in the image is a finding: a soft maximum over the patches.
  anywhere = jax.nn.logsumexp(_linear(heads["findings"], states), axis=1)
  terms = {
    "contrast": contrast(scale * whole @ text.T, targets),
    "regions": contrast(
      scale * jnp.einsum("brd,td->brt", parts, text).max(axis=1), targets
    ),
    "meaning": _presence(_linear(heads["meaning"], 10.0 * whole), findings)
    + _presence(_linear(heads["meaning"], 10.0 * text), findings),
    "findings": _presence(anywhere - jnp.log(states.shape[1]), findings),
    "pixels": jnp.square(
      _linear(heads["pixels"], states) - _patches(batch["image"], model)
    ).mean(),
  }
  loss = functools.reduce(operator.add, terms.values())
  return loss, dict(terms, loss=loss)


def _patches(images: types.Array, model: clip_model.ClipModel) -> jax.Array:
  """Cuts images [b s s 1] in [0, 255] into scaled patches [b g*g p*p]."""
  scaled = (jnp.asarray(images) / 255.0 - model.pixels.mean[0]) / model.pixels.std[0]
  return einops.rearrange(
    scaled, "b (h p) (w q) c -> b (h w) (p q c)", h=model.grid, w=model.grid
  )


def _presence(logits: jax.Array, findings: types.Array) -> jax.Array:
  """Cross-entropy of known findings [b f], summed over f and averaged over b."""
  known = jnp.isfinite(findings)
  each = optax.sigmoid_binary_cross_entropy(logits, jnp.where(known, findings, 0.0))
  return jnp.where(known, each, 0.0).sum(axis=-1).mean()


def _linear(head: types.Params, states: jax.Array) -> jax.Array:
  return states @ head["kernel"] + head["bias"]


def same_content(findings: types.Array) -> jax.Array:
  """Target distribution [b b] float32 of texts for images: equal sets of findings.

  Half of all X-rays have no finding, and their prompts say the same: to push such pairs
  apart would be to learn the noise. `findings` are [b f] 0, 1, or nan for unknown,
  which equals unknown.
  """
  findings = jnp.nan_to_num(findings, nan=-1.0)
  same = (findings[:, None] == findings[None]).all(axis=-1).astype(jnp.float32)
  return same / same.sum(axis=1, keepdims=True)


def contrast(logits: jax.Array, targets: jax.Array) -> jax.Array:
  """Symmetric cross-entropy of images over texts and texts over images.

  `logits` are [b b] scaled similarities, images by texts, and `targets` of
  `same_content`. The result is in nats above the entropy of the targets: 0 is perfect.
  """
  floor = -jax.scipy.special.xlogy(targets, targets).sum(axis=1).mean()
  rows = optax.softmax_cross_entropy(logits, targets).mean()
  columns = optax.softmax_cross_entropy(logits.T, targets).mean()
  return 0.5 * (rows + columns) - floor


def _unit(vectors: jax.Array) -> jax.Array:
  return vectors / (jnp.linalg.norm(vectors, axis=-1, keepdims=True) + 1e-6)


def make_heads(
  generator: np.random.Generator, sizes: clip_small.SmallClip, findings: np.ndarray
) -> types.Params:
  """Linear heads, thrown away after training.

  Returns:
    `meaning` reads findings from the shared space, `findings` from a patch state, both
    from their own frequencies on; `pixels` reads a patch's pixels from its state.
  """
  known = np.isfinite(findings)
  counts = np.maximum(known.sum(axis=0), 1)
  rate = np.where(known, findings, 0).sum(axis=0) / counts
  rate = np.clip(rate, 1e-3, 1 - 1e-3)
  prior = np.log(rate / (1 - rate)).astype(np.float32)
  shape = (sizes.width, sizes.patch_size**2)

  def reader(width):
    return {"kernel": jnp.zeros((width, len(prior))), "bias": jnp.array(prior)}

  return {
    "meaning": reader(sizes.embedding),
    "findings": reader(sizes.width),
    "pixels": {
      "kernel": jnp.asarray(
        generator.standard_normal(shape) / np.sqrt(sizes.width), jnp.float32
      ),
      "bias": jnp.zeros(shape[1]),
    },
  }


def patch_states(tokens: types.Array) -> jax.Array:
  """Normalises each patch's state to mean 0 and variance 1: [n g*g d] float32.

  Without this a few features of a residual stream hold most of its variance. The class
  token, the first of `tokens` [n 1+g*g d], is dropped.
  """
  patches = jnp.asarray(tokens[:, 1:], jnp.float32)
  mean = patches.mean(axis=-1, keepdims=True)
  return (patches - mean) / jnp.sqrt(patches.var(axis=-1, keepdims=True) + 1e-5)


def region_weights(grid: int) -> np.ndarray:
  """Returns the 32 regions of `grid` x `grid` patches: [32 g*g] float32, rows sum to 1.

  A patch that lies across a border counts in each region by the part within it. Row 0
  is the whole image.
  """
  pieces = [(1, 1), (1, 2), (2, 2), (3, 3), (4, 4)]
  regions = [
    np.outer(row, column).ravel()
    for rows, columns in pieces
    for row in _intervals(rows, grid)
    for column in _intervals(columns, grid)
  ]
  return np.asarray(regions, np.float32)


def _intervals(count: int, grid: int) -> np.ndarray:
  """Returns averages over `count` equal intervals of a line of patches, [count g]."""
  edges = np.linspace(0, grid, count + 1)
  patches = np.arange(grid)
  ends = np.minimum(edges[1:, None], patches + 1)
  starts = np.maximum(edges[:-1, None], patches)
  overlap = np.maximum(ends - starts, 0)
  return overlap / overlap.sum(axis=1, keepdims=True)


def augment(key: jax.Array, images: types.Array) -> jax.Array:
  """Shifts by up to a sixteenth, and changes brightness and contrast; never flips.

  [b s s 1] in [0, 255] stay so, as float32.
  """
  count, side = images.shape[:2]
  reach = side // 16
  shift_key, scale_key, offset_key = jax.random.split(key, 3)
  corners = jax.random.randint(shift_key, (count, 2), 0, 2 * reach + 1)
  padded = jnp.pad(
    jnp.asarray(images, jnp.float32),
    ((0, 0), (reach, reach), (reach, reach), (0, 0)),
    mode="edge",
  )
  shifted = jax.vmap(
    lambda image, corner: jax.lax.dynamic_slice(
      image, (corner[0], corner[1], 0), (side, side, 1)
    )
  )(padded, corners)
  scale = jax.random.uniform(scale_key, (count, 1, 1, 1), minval=0.85, maxval=1.15)
  offset = jax.random.uniform(offset_key, (count, 1, 1, 1), minval=-20, maxval=20)
  return jnp.clip(shifted * scale + offset, 0, 255)
