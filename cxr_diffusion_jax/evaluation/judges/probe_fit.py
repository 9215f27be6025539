"""How a probe is trained: a classifier of findings, steps of AdamW, weighted loss.

  loss = mean over images of sum over findings of
         -[w y log p + (1 - y) log(1 - p)],   w = clip((1 - rate) / rate, 1, limit)

The number of steps is fixed, so that the same inputs give the same parameters on the
same kind of machine.
"""

from collections.abc import Callable, Iterator, Sequence
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cxr_diffusion_jax import types
from cxr_diffusion_jax.encoders.standin import loss as standin_loss
from cxr_diffusion_jax.models import classifier as classifier_lib


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProbeSettings:
  """How a probe is built and trained; the defaults are for images of 64 pixels.

  Attributes:
    widths: see `models.classifier.Classifier`.
    blocks: as above.
    stem_stride: as above; twice the size wants twice the stride for the same time.
    norm_groups: as above.
    num_steps: updates.
    batch_size: images in an update, and in a call of `Probe.scores`.
    learning_rate: at its peak, after a tenth of the steps.
    weight_decay: of AdamW, for the kernels.
    max_positive_weight: limit of w above, which a finding of one in six images reaches
      at 5: rare findings count for more, but not all of the loss.
    seed: of parameters, order and augmentation.
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


def default_settings(image_size: int) -> ProbeSettings:
  """Larger images are made small by the first layer: as much work at any size."""
  return ProbeSettings(stem_stride=max(2, image_size // 32))


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Programs:
  """What a training compiles; of any seed and any images of one size.

  Attributes:
    init_fn: (key, [1 s s 1]) -> variables of the classifier.
    tx: the optimizer, which knows the number of steps and the learning rate.
    step_fn: (weights [k], key, parameters, optimizer state, batch) -> parameters,
      optimizer state, loss; the former parameters and state are gone then.
  """

  init_fn: Callable[[jax.Array, types.Array], types.Params]
  tx: optax.GradientTransformation
  step_fn: Callable[..., tuple[types.Params, optax.OptState, jax.Array]]


# (logits [b k], what they should tell [b k], weights [k]) -> scalar
LossFn = Callable[[types.Array, types.Array, types.Array], jax.Array]


def findings_loss(
  logits: types.Array, findings: types.Array, weights: types.Array
) -> jax.Array:
  """The loss above, of findings [b k] 0 or 1."""
  each = optax.sigmoid_binary_cross_entropy(logits, findings)
  weighted = each * jnp.where(findings > 0.5, weights, 1)
  return weighted.sum(axis=-1).mean()


def make_programs(
  settings: ProbeSettings, num_classes: int, loss_fn: LossFn = findings_loss
) -> Programs:
  """The programs of `fit`; compiled when they are first called."""
  classifier = make_classifier(settings, num_classes)
  tx = _optimizer(settings)
  # One program a step, and no loop inside it: on a CPU, gradients of convolutions are
  # more than ten times slower within XLA's loops.
  step_fn = jax.jit(
    functools.partial(_update, classifier, tx, loss_fn), donate_argnums=(2, 3)
  )
  return Programs(init_fn=jax.jit(classifier.init), tx=tx, step_fn=step_fn)


def fit(
  images: Sequence[np.ndarray],
  findings: np.ndarray,
  settings: ProbeSettings,
  progress: types.Progress = types.no_progress,
  *,
  params: types.Params | None = None,
  programs: Programs | None = None,
  weights: np.ndarray | None = None,
) -> tuple[types.Params, list[float]]:
  """Trains a classifier.

  Args:
    images: n of uint8 [s s 1]; each is read once an epoch.
    findings: [n k] 0 or 1.
    settings: of the network and its training.
    progress: told each step, with the loss in its label.
    params: to begin with (fine-tuning); None for random ones. They are left as they
      are.
    programs: of `make_programs` of these settings, whatever their seed, to compile once
      for several trainings.
    weights: [k] float32 of the loss; None for those of rare findings.

  Returns:
    Its parameters, and the loss of each step.

  Raises:
    FloatingPointError: the loss is not finite.
  """
  key = jax.random.key(settings.seed)
  programs = programs or make_programs(settings, findings.shape[1])
  if weights is None:
    weights = positive_weights(findings, settings.max_positive_weight)
  if params is None:
    params = programs.init_fn(key, jnp.zeros((1, *images[0].shape)))["params"]
    params["head"]["bias"] = jnp.asarray(_log_odds(findings, weights))
  else:
    # The first step takes the memory of what it is given.
    params = jax.tree.map(jnp.array, params)
  opt_state = programs.tx.init(params)
  losses = []
  for step, rows in enumerate(_rows(len(images), settings)):
    batch = {
      "image": np.stack([images[row] for row in rows]),
      "findings": np.asarray(findings[rows], np.float32),
    }
    step_key = jax.random.fold_in(key, step)
    params, opt_state, loss = programs.step_fn(
      weights, step_key, params, opt_state, batch
    )
    losses.append(float(loss))
    if not np.isfinite(losses[-1]):
      raise FloatingPointError(f"loss of the probe at step {step}: {losses[-1]}")
    progress(f"probe, loss {losses[-1]:.3f}", step + 1, settings.num_steps)
  return params, losses


def make_classifier(
  settings: ProbeSettings, num_classes: int
) -> classifier_lib.Classifier:
  """The network of `settings`."""
  return classifier_lib.Classifier(
    num_classes=num_classes,
    widths=settings.widths,
    blocks=settings.blocks,
    stem_stride=settings.stem_stride,
    norm_groups=settings.norm_groups,
  )


def make_score_fn(
  settings: ProbeSettings, num_classes: int
) -> Callable[[types.Params, types.Array], jax.Array]:
  """Returns (parameters, images uint8 [b s s 1]) -> [b k] in [0, 1], compiled."""
  classifier = make_classifier(settings, num_classes)

  def score(params, images):
    logits = classifier.apply({"params": params}, to_network(images))
    return jax.nn.sigmoid(logits)

  return jax.jit(score)


def make_features_fn(
  settings: ProbeSettings, num_classes: int
) -> Callable[[types.Params, types.Array], jax.Array]:
  """Returns (parameters, images uint8 [b s s 1]) -> [b d] before the last layer."""
  classifier = make_classifier(settings, num_classes)

  def features(params, images):
    _, made = classifier.apply(
      {"params": params}, to_network(images), mutable=["intermediates"]
    )
    return made["intermediates"]["features"][0]

  return jax.jit(features)


def to_network(images: types.Array) -> jax.Array:
  """Pixels in [0, 255] to float32 in [-1, 1]."""
  return jnp.asarray(images, jnp.float32) / 127.5 - 1


def positive_weights(findings: np.ndarray, limit: float) -> np.ndarray:
  """Returns [k] float32 w of the loss above; 1 for findings that no image has."""
  rate = np.mean(findings, axis=0)
  weights = np.clip((1 - rate) / np.maximum(rate, 1e-9), 1, limit)
  return np.where(rate > 0, weights, 1).astype(np.float32)


def _update(
  classifier: classifier_lib.Classifier,
  tx: optax.GradientTransformation,
  loss_fn: LossFn,
  weights: types.Array,
  key: jax.Array,
  params: types.Params,
  opt_state: optax.OptState,
  batch: types.Batch,
) -> tuple[types.Params, optax.OptState, jax.Array]:
  """Returns parameters and optimizer state after one update, and its loss."""
  image = to_network(standin_loss.augment(key, batch["image"]))

  def loss_of(params):
    logits = classifier.apply({"params": params}, image)
    return loss_fn(logits, batch["findings"], weights)

  loss, grads = jax.value_and_grad(loss_of)(params)
  updates, opt_state = tx.update(grads, opt_state, params)
  return optax.apply_updates(params, updates), opt_state, loss


def _log_odds(findings: np.ndarray, weights: np.ndarray) -> np.ndarray:
  """Returns [k] float32, the constant logits of least weighted loss."""
  rate = np.clip(np.mean(findings, axis=0), 1e-3, 1 - 1e-3)
  return np.log(weights * rate / (1 - rate)).astype(np.float32)


def _optimizer(settings: ProbeSettings) -> optax.GradientTransformation:
  """AdamW with warmup and cosine decay; only kernels decay, not norms and biases."""
  rate = optax.warmup_cosine_decay_schedule(
    0.0,
    settings.learning_rate,
    max(1, settings.num_steps // 10),
    max(2, settings.num_steps),
    end_value=0.01 * settings.learning_rate,
  )
  return optax.chain(
    optax.clip_by_global_norm(1.0),
    optax.adamw(
      rate,
      weight_decay=settings.weight_decay,
      mask=lambda params: jax.tree.map(lambda leaf: leaf.ndim > 1, params),
    ),
  )


def _rows(count: int, settings: ProbeSettings) -> Iterator[np.ndarray]:
  """Yields the rows of each step's batch: whole shuffled passes, one after another."""
  generator = np.random.default_rng(settings.seed)
  order = np.empty(0, np.int64)
  for _ in range(settings.num_steps):
    while len(order) < settings.batch_size:
      order = np.concatenate([order, generator.permutation(count)])
    yield order[: settings.batch_size]
    order = order[settings.batch_size :]
