"""Small convolutional classifiers and regressors: how they are trained and applied.

loss = mean over images of sum over findings that are known of
       -[w y log p + (1 - y) log(1 - p)],   w = clip((1 - rate) / rate, 1, limit)
until the AUROC of validation patients reaches a plateau
"""

from collections.abc import Callable
import dataclasses

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import optax
import safetensors.numpy

from cxr_diffusion_jax import artifacts, errors, types
from cxr_diffusion_jax.encoders import fitting, fitting_steps
from cxr_diffusion_jax.encoders.extractors import extractor as extractor_lib
from cxr_diffusion_jax.encoders.probes import finding_rates
from cxr_diffusion_jax.encoders.probes.probe_settings import MAX_SIDE, ProbeSettings
from cxr_diffusion_jax.encoders.standin import loss as standin_loss
from cxr_diffusion_jax.encoders.unfinished import Unfinished
from cxr_diffusion_jax.models import classifier as classifier_lib
from cxr_diffusion_jax.models import network
from cxr_diffusion_jax.parallel import batches

# Validation images at most, spread evenly, whose AUROC ends a training.
MAX_VALIDATION = 2048

# Images that take less than this are read once and kept.
MAX_BYTES_IN_MEMORY = 2**30

# (parameters, images uint8 [b s s 1]) -> [b k]
ImagesFn = Callable[[types.Params, types.Array], jax.Array]

# (logits [b k], targets [b k], weights [k]) -> scalar
LossFn = Callable[[types.Array, types.Array, types.Array], jax.Array]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Program:
  """A compiled training step, for any seed and any images of one size.

  Attributes:
    init_fn: (key, [1 s s 1]) -> variables of the classifier.
    score_fn: of validation images.
  """

  init_fn: Callable[[jax.Array, types.Array], types.Params]
  tx: optax.GradientTransformation
  step_fn: fitting_steps.StepFn
  score_fn: ImagesFn


def findings_loss(
  logits: types.Array, findings: types.Array, weights: types.Array
) -> jax.Array:
  """The loss above, of findings [b k] 0 or 1; nan is unknown and has no gradient."""
  known = jnp.isfinite(findings)
  each = optax.sigmoid_binary_cross_entropy(logits, jnp.where(known, findings, 0))
  weighted = each * jnp.where(findings > 0.5, weights, 1)
  return jnp.where(known, weighted, 0).sum(axis=-1).mean()


def compile_step(
  settings: ProbeSettings, num_classes: int, loss_fn: LossFn = findings_loss
) -> Program:
  """The program of `fit`: AdamW, where only kernels decay, not norms and biases."""
  classifier = make_classifier(settings, num_classes)
  schedule = fitting.learning_rate
  if settings.patience:
    schedule = fitting.steady_learning_rate
  tx = optax.chain(
    optax.clip_by_global_norm(1.0),
    optax.adamw(
      schedule(settings.learning_rate, settings.num_steps),
      weight_decay=settings.weight_decay,
      mask=lambda params: jax.tree.map(lambda leaf: leaf.ndim > 1, params),
    ),
  )

  def loss_of(key, params, batch):
    image = to_network(standin_loss.augment(key, reduced(batch["image"])))
    logits = jnp.asarray(classifier.apply({"params": params}, image))
    return loss_fn(logits, batch["findings"], batch["weights"]), {}

  return Program(
    init_fn=jax.jit(classifier.init),
    tx=tx,
    step_fn=fitting.make_step_fn(loss_of, tx),
    score_fn=make_score_fn(settings, num_classes),
  )


def fit(
  images: types.Arrays,
  findings: np.ndarray,
  settings: ProbeSettings,
  *,
  validation: tuple[types.Arrays, np.ndarray] | None = None,
  name: str = "probe",
  params: types.Params | None = None,
  program: Program | None = None,
  weights: np.ndarray | None = None,
  unfinished: Unfinished | None = None,
  progress: types.Progress = types.no_progress,
) -> fitting.Fitted:
  """Trains a classifier.

  Figures of its plateau are the validation images' macro AUROC to three decimals, and
  as far as that is equal, their loss.

  Args:
    images: n of uint8 [s s 1]; each is read once an epoch.
    findings: [n k] 0 or 1, nan unknown; or other targets of the program's loss.
    validation: images and findings of other patients, for settings with a patience.
    params: to begin with (fine-tuning), which remain unchanged; None for random ones.
    program: of `compile_step` with these settings and any seed, to compile once for
      several trainings.
    unfinished: see `fitting.fit`.
  """
  program = program or compile_step(settings, findings.shape[1])
  if weights is None:
    weights = finding_rates.positive_weights(findings, settings.max_positive_weight)
  if params is None:
    key, like = jax.random.key(settings.seed), jnp.zeros((1, *images[0].shape))
    initial = program.init_fn(key, like)["params"]
    initial["head"]["bias"] = jnp.asarray(finding_rates.log_odds(findings, weights))
    params = initial
  else:
    # The first step consumes the parameters that it is given.
    params = jax.tree.map(jnp.array, params)

  def read_batch(rows: np.ndarray) -> types.Batch:
    if isinstance(images, np.ndarray):
      image = np.asarray(images)[rows]
    else:
      image = np.stack([images[row] for row in rows])
    return {
      "image": image,
      "findings": np.asarray(findings[rows], np.float32),
      "weights": weights,
    }

  return fitting.fit(
    program.step_fn,
    program.tx,
    params,
    read_batch,
    len(images),
    name=name,
    num_steps=settings.num_steps,
    batch_size=settings.batch_size,
    seed=settings.seed,
    plateau=_plateau(program, settings, validation, weights),
    unfinished=unfinished,
    progress=progress,
  )


def _plateau(
  program: Program,
  settings: ProbeSettings,
  validation: tuple[types.Arrays, np.ndarray] | None,
  weights: np.ndarray,
) -> fitting.Plateau | None:
  if not settings.patience:
    return None
  assert validation is not None
  return fitting.Plateau(
    figure_fn=_figure_fn(program.score_fn, validation, weights, settings.batch_size),
    check_every=settings.check_every,
    patience=settings.patience,
  )


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


def reduced(images: types.Array) -> jax.Array:
  """Images of at most `MAX_SIDE` pixels a side, as float32 in [0, 255]."""
  images = jnp.asarray(images, jnp.float32)
  side = max(images.shape[1:3])
  return extractor_lib.resize(images, MAX_SIDE) if side > MAX_SIDE else images


def to_network(images: types.Array) -> jax.Array:
  """Pixels in [0, 255] to float32 in [-1, 1], of at most `MAX_SIDE` a side."""
  return reduced(images) / 127.5 - 1


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


def in_memory(images: types.Arrays) -> types.Arrays:
  """Reads images into memory, where they fit: each is used in many steps."""
  fits = len(images) * images[0].nbytes <= MAX_BYTES_IN_MEMORY
  if fits and not isinstance(images, np.ndarray):
    return np.stack([images[row] for row in range(len(images))])
  return images


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


def _figure_fn(
  score_fn: ImagesFn,
  validation: tuple[types.Arrays, np.ndarray],
  weights: np.ndarray,
  batch_size: int,
) -> Callable[[types.Params], tuple[float, ...]]:
  """Parameters -> AUROC to three decimals, and the loss below zero."""
  images, findings = validation
  num = min(len(images), MAX_VALIDATION)
  rows = np.unique(np.linspace(0, len(images) - 1, num).astype(int))
  shown, wanted = np.stack([images[int(row)] for row in rows]), findings[rows]
  present, known = wanted > 0.5, np.isfinite(wanted)
  parts = [
    (shown[part], num) for part, num in batches.batch_rows(len(rows), batch_size)
  ]
  on_device: list[types.Array] = []

  def figure(params: types.Params) -> tuple[float, ...]:
    if fitting_steps.on_cpu(params):
      each = (np.asarray(score_fn(params, part)) for part, _ in parts)
    else:
      # The images stay there, and all calls start before the first result is awaited.
      on_device[:] = on_device or [jax.device_put(part) for part, _ in parts]
      each = [score_fn(params, part) for part in on_device]
    scores = np.concatenate(
      [np.asarray(part)[:num] for part, (_, num) in zip(each, parts, strict=True)]
    )
    right = np.clip(np.where(present, scores, 1 - scores), 1e-7, 1)
    loss = -(np.log(right) * np.where(present, weights, known)).sum(axis=1).mean()
    return round(finding_rates.macro_auroc(scores, wanted), 3), -float(loss)

  return figure
