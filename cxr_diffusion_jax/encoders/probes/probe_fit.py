"""Small convolutional classifiers and regressors: how they are trained and applied.

  loss = mean over images of sum over findings of
         -[w y log p + (1 - y) log(1 - p)],   w = clip((1 - rate) / rate, 1, limit)

Attribution maps: activation A and gradient G = d logit / d A of a layer, both [h w c]
  -> map [h w] = sum over channels of relu(G) x relu(A)

LayerCAM (Jiang et al. 2021, "LayerCAM: exploring hierarchical class activation maps for
localization", section III), at the end of the second stage: 16x16 places for images of
64 pixels. The last stage has 4x4 places, wider than most boxes.
"""

from collections.abc import Callable
import dataclasses

from flax import linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import optax
import safetensors.numpy

from cxr_diffusion_jax import artifacts, errors, types
from cxr_diffusion_jax.encoders import fitting
from cxr_diffusion_jax.encoders.standin import loss as standin_loss
from cxr_diffusion_jax.models import classifier as classifier_lib
from cxr_diffusion_jax.models import network

# Images that take less than this are read once and kept.
MAX_BYTES_IN_MEMORY = 2**30

# (parameters, images uint8 [b s s 1]) -> [b k]; with columns [b] -> [b h w]
ImagesFn = Callable[[types.Params, types.Array], jax.Array]
AttributionFn = Callable[[types.Params, types.Array, types.Array], jax.Array]

# (logits [b k], targets [b k], weights [k]) -> scalar
LossFn = Callable[[types.Array, types.Array, types.Array], jax.Array]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProbeSettings:
  """How a probe is built and trained; the defaults are for images of 64 pixels.

  Attributes:
    stem_stride: twice the size needs twice the stride for the same time.
    batch_size: images in an update, and in a call of `Probe.scores`.
    max_positive_weight: limit of w above, which a finding of one in six images reaches
      at 5: rare findings count for more, but not all of the loss.
  """

  widths: tuple[int, ...] = (16, 32, 64, 128)
  blocks: int = 1
  stem_stride: int = 2
  norm_groups: int = 8
  num_steps: int = 1500
  batch_size: int = 64
  learning_rate: float = 3e-3
  weight_decay: float = 0.05
  max_positive_weight: float = 5.0
  seed: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Program:
  """A compiled training step, for any seed and any images of one size.

  Attributes:
    init_fn: (key, [1 s s 1]) -> variables of the classifier.
  """

  init_fn: Callable[[jax.Array, types.Array], types.Params]
  tx: optax.GradientTransformation
  step_fn: fitting.StepFn


def findings_loss(
  logits: types.Array, findings: types.Array, weights: types.Array
) -> jax.Array:
  """The loss above, of findings [b k] 0 or 1."""
  each = optax.sigmoid_binary_cross_entropy(logits, findings)
  weighted = each * jnp.where(findings > 0.5, weights, 1)
  return weighted.sum(axis=-1).mean()


def compile_step(
  settings: ProbeSettings, num_classes: int, loss_fn: LossFn = findings_loss
) -> Program:
  """The program of `fit`: AdamW, where only kernels decay, not norms and biases."""
  classifier = make_classifier(settings, num_classes)
  tx = optax.chain(
    optax.clip_by_global_norm(1.0),
    optax.adamw(
      fitting.learning_rate(settings.learning_rate, settings.num_steps),
      weight_decay=settings.weight_decay,
      mask=lambda params: jax.tree.map(lambda leaf: leaf.ndim > 1, params),
    ),
  )

  def loss_of(key, params, batch):
    image = to_network(standin_loss.augment(key, batch["image"]))
    logits = jnp.asarray(classifier.apply({"params": params}, image))
    return loss_fn(logits, batch["findings"], batch["weights"]), {}

  return Program(
    init_fn=jax.jit(classifier.init), tx=tx, step_fn=fitting.make_step_fn(loss_of, tx)
  )


def fit(
  images: types.Arrays,
  findings: np.ndarray,
  settings: ProbeSettings,
  *,
  name: str = "probe",
  params: types.Params | None = None,
  program: Program | None = None,
  weights: np.ndarray | None = None,
  progress: types.Progress = types.no_progress,
) -> tuple[types.Params, list[float]]:
  """Trains a classifier; returns its parameters, and the loss of each step.

  Args:
    images: n of uint8 [s s 1]; each is read once an epoch.
    findings: [n k] 0 or 1; or other targets of the program's loss.
    params: to begin with (fine-tuning), which remain unchanged; None for random ones.
    program: of `compile_step` with these settings and any seed, to compile once for
      several trainings.
  """
  program = program or compile_step(settings, findings.shape[1])
  if weights is None:
    weights = positive_weights(findings, settings.max_positive_weight)
  if params is None:
    key, like = jax.random.key(settings.seed), jnp.zeros((1, *images[0].shape))
    initial = program.init_fn(key, like)["params"]
    initial["head"]["bias"] = jnp.asarray(_log_odds(findings, weights))
    params = initial
  else:
    # The first step consumes the parameters that it is given.
    params = jax.tree.map(jnp.array, params)

  def read_batch(rows: np.ndarray) -> types.Batch:
    return {
      "image": np.stack([images[row] for row in rows]),
      "findings": np.asarray(findings[rows], np.float32),
      "weights": weights,
    }

  params, losses = fitting.fit(
    program.step_fn,
    program.tx,
    params,
    read_batch,
    len(images),
    name=name,
    num_steps=settings.num_steps,
    batch_size=settings.batch_size,
    seed=settings.seed,
    progress=progress,
  )
  return params, [terms["loss"] for terms in losses]


def make_classifier(
  settings: ProbeSettings, num_classes: int
) -> classifier_lib.Classifier:
  """The network of `settings`."""
  return network.shared_fields(
    classifier_lib.Classifier, settings, num_classes=num_classes
  )


def make_score_fn(settings: ProbeSettings, num_classes: int) -> ImagesFn:
  """Returns images -> scores in [0, 1], compiled."""
  classifier = make_classifier(settings, num_classes)

  def score(params, images):
    logits = classifier.apply({"params": params}, to_network(images))
    return jax.nn.sigmoid(jnp.asarray(logits))

  return jax.jit(score)


def make_features_fn(settings: ProbeSettings, num_classes: int) -> ImagesFn:
  """Returns images -> features before the last layer, compiled."""
  classifier = make_classifier(settings, num_classes)

  def features(params, images):
    _, state = classifier.apply(
      {"params": params}, to_network(images), mutable=["intermediates"]
    )
    return state["intermediates"]["features"][0]

  return jax.jit(features)


def make_attribution_fn(settings: ProbeSettings, num_classes: int) -> AttributionFn:
  """Returns images and columns -> LayerCAM maps, compiled."""
  classifier = make_classifier(settings, num_classes)
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
        logits = jnp.asarray(classifier.apply({"params": params}, to_network(images)))
      # No logit depends on another image: the sum's gradient is each one's own.
      return logits[jnp.arange(len(images)), columns].sum(), seen[0]

    activation = run()[1]
    gradient = jax.grad(lambda replaced: run(replaced)[0])(activation)
    return jnp.sum(nn.relu(gradient) * nn.relu(activation), axis=-1)

  return jax.jit(attribute)


def to_network(images: types.Array) -> jax.Array:
  """Pixels in [0, 255] to float32 in [-1, 1]."""
  return jnp.asarray(images, jnp.float32) / 127.5 - 1


def positive_weights(findings: np.ndarray, limit: float) -> np.ndarray:
  """Returns [k] float32 w of the loss above; 1 for findings that no image has."""
  rate = np.mean(findings, axis=0)
  weights = np.clip((1 - rate) / np.maximum(rate, 1e-9), 1, limit)
  return np.where(rate > 0, weights, 1).astype(np.float32)


def check_images(images: types.Arrays, size: int) -> None:
  """Raises `errors.InputError` unless all images are uint8 [size size 1]."""
  for image in images:
    if image.shape != (size, size, 1) or image.dtype != np.uint8:
      raise errors.InputError(
        f"an image {image.dtype} {image.shape}",
        f"uint8 {(size, size, 1)}, as in training",
        "bring all images to one size first",
      )


def sample_images(images: types.Arrays, size: int) -> np.ndarray:
  """At most 64 images, spread evenly, for a fingerprint; checked as `check_images`."""
  rows = np.unique(np.linspace(0, len(images) - 1, 64).astype(int))
  sample = [np.asarray(images[int(row)]) for row in rows]
  check_images(sample, size)
  return np.stack(sample)


def to_bytes(params: types.Params, metadata: dict[str, str] | None = None) -> bytes:
  """Parameters by path, and further texts, as the content of a safetensors file."""
  leaves: artifacts.Json = flax.traverse_util.flatten_dict(params, sep="/")
  arrays = {key: np.asarray(leaves[key]) for key in sorted(leaves)}
  return safetensors.numpy.save(arrays, metadata=metadata)


def from_bytes(data: bytes) -> types.Params:
  """The parameters of `to_bytes`; raises SafetensorError for other content."""
  leaves = safetensors.numpy.load(data).items()
  flat = {key: jnp.asarray(value) for key, value in leaves}
  return flax.traverse_util.unflatten_dict(flat, sep="/")


def _log_odds(findings: np.ndarray, weights: np.ndarray) -> np.ndarray:
  """Returns [k] float32, the constant logits of least weighted loss."""
  rate = np.clip(np.mean(findings, axis=0), 1e-3, 1 - 1e-3)
  return np.log(weights * rate / (1 - rate)).astype(np.float32)
