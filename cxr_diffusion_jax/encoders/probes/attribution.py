"""Maps of where a classifier sees a finding.

activation A and gradient G = d logit / d A of a layer, both [h w c]
  -> map [h w] = sum over channels of relu(G) x relu(A)

LayerCAM (Jiang et al. 2021, "LayerCAM: exploring hierarchical class activation maps for
localization", section III), at the end of the second stage: 16x16 places for images of
64 pixels. The last stage has 4x4 places, wider than most boxes.
"""

from collections.abc import Callable

from flax import linen as nn
import jax
import jax.numpy as jnp

from cxr_diffusion_jax import types
from cxr_diffusion_jax.encoders.probes import probe_fit
from cxr_diffusion_jax.encoders.probes.probe_settings import ProbeSettings

# (parameters, images uint8 [b s s 1], columns [b]) -> [b h w]
AttributionFn = Callable[[types.Params, types.Array, types.Array], jax.Array]


def make_attribution_fn(settings: ProbeSettings, num_classes: int) -> AttributionFn:
  """Returns images and columns -> LayerCAM maps, compiled."""
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
        logits = jnp.asarray(
          classifier.apply({"params": params}, probe_fit.to_network(images))
        )
      # No logit depends on another image: the sum's gradient is each one's own.
      return logits[jnp.arange(len(images)), columns].sum(), seen[0]

    activation = run()[1]
    gradient = jax.grad(lambda replaced: run(replaced)[0])(activation)
    return jnp.sum(nn.relu(gradient) * nn.relu(activation), axis=-1)

  return jax.jit(attribute)
