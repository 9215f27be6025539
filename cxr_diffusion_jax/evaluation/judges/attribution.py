"""Where in an image a classifier finds what it tells of.

activation A and gradient G = d logit / d A of a layer, both [h w c]
  -> map [h w] = sum over channels of relu(G) x relu(A)

LayerCAM (Jiang et al. 2021, "LayerCAM: exploring hierarchical class activation maps for
localization", section III), at the end of the second stage: of images of 64 pixels a
map of 16x16. The class activation map of the last stage (Zhou et al. 2016, 1512.04150)
has 4x4 places there, wider than most boxes, and each of them has seen the whole image.
"""

from collections.abc import Callable

from flax import linen as nn
import jax
import jax.numpy as jnp

from cxr_diffusion_jax import types
from cxr_diffusion_jax.evaluation.judges import probe_fit


def make_attribution_fn(
  settings: probe_fit.ProbeSettings, num_classes: int
) -> Callable[[types.Params, types.Array, types.Array], jax.Array]:
  """Returns (parameters, images uint8 [b s s 1], column [b]) -> [b h w], compiled."""
  classifier = probe_fit.make_classifier(settings, num_classes)
  layer = f"stages_{min(1, len(settings.widths) - 1)}_{settings.blocks - 1}"

  def attribute(params, images, columns):
    def run(replacement=None):
      """The logits' sum, with the layer's output as it is or replaced; its output."""
      seen = []

      def intercept(next_fn, args, kwargs, context):
        out = next_fn(*args, **kwargs)
        if context.module.name != layer or context.method_name != "__call__":
          return out
        seen.append(out)
        return out if replacement is None else replacement

      with nn.intercept_methods(intercept):
        logits = classifier.apply({"params": params}, probe_fit.to_network(images))
      # No image's logit depends on another image: the sum's gradient is each one's own.
      return logits[jnp.arange(len(images)), columns].sum(), seen[0]

    activation = run()[1]
    gradient = jax.grad(lambda replaced: run(replaced)[0])(activation)
    return jnp.sum(nn.relu(gradient) * nn.relu(activation), axis=-1)

  return jax.jit(attribute)
