"""The sections `optimizer` and `train` of a size: how fast and how long it learns.

  learning_rate = published rate x (batch_size / published batch)^(1/2)
  images        = num_steps x batch_size

The square root is the rule for Adam (Malladi et al. 2022, 2205.10287): with the number
of images unchanged, another batch size follows the same path. A config holds only the
result. Change both together: twice the batch, half the steps, 1.41 times the rate.

No size sees an image of NIH ChestX-ray14 more than about 310 times: X-ray models that
are trained for too long repeat their training images (2402.01054).
"""

# Published (rate, batch) of Adam for networks of the same kind and about the same size.
PUBLISHED = {
  # DDPM, CIFAR-10, a UNet of 35.7 M: 2006.11239, appendix B.
  "unet_small": (2e-4, 128),
  # ADM, ImageNet at 256 and 512 pixels: 2105.05233, appendix I.
  "unet_base": (1e-4, 256),
  # DiT, every size: 2212.09748, section 4.
  "dit": (1e-4, 256),
}

# Steps and batch of a size.
LENGTHS = {"tiny": (2000, 16), "small": (100_000, 128), "base": (100_000, 256)}


def scaled(rate: float, published: int, batch: int) -> float:
  """The rate at another batch size, to two digits."""
  return float(f"{rate * (batch / published) ** 0.5:.2g}")


def learning_rate(network: str, size: str) -> float:
  """The rate of a network of the scale tiny, small or base; see `PUBLISHED`."""
  batch = LENGTHS[size][1]
  if size == "tiny":
    # Measured: on phantoms, 300 steps of the DiT at 1e-3 end at a validation loss of
    # 0.74, at 2e-3 0.70.
    return 2e-3 if network == "dit" else 1e-3
  return scaled(*PUBLISHED["dit" if network == "dit" else f"unet_{size}"], batch)


def optimizer(network: str, size: str) -> dict:
  """Returns the section `optimizer`; `network` is unet, dit or edm2."""
  section = dict(
    learning_rate=learning_rate(network, size),
    schedule="cosine",
    warmup_steps={"tiny": 100, "small": 1000, "base": 2000}[size],
    final_rate=0.0,
    weight_decay=0.01,
    clip_norm=1.0,
    b1=0.9,
    b2=0.99,
    accumulation=1,
  )
  if network == "edm2":
    # Its weights have unit magnitude: a learning rate is the angle that they turn by.
    # As published (2312.02696), not scaled to the batch.
    section.update(
      learning_rate=0.01,
      schedule="inverse_sqrt",
      decay_after={"tiny": 500, "small": 35_000}[size],
      weight_decay=0.0,
      clip_norm=0.0,
      unit_weights=True,
    )
  return section


def train(size: str) -> dict:
  """Returns the section `train` of the scale tiny, small or base."""
  num_steps, batch_size = LENGTHS[size]
  return dict(
    num_steps=num_steps,
    batch_size=batch_size,
    ema_decay={"tiny": 0.995, "small": 0.9999, "base": 0.9999}[size],
    # EDM2's lengths. Each is one more copy of the parameters in float32, on the devices
    # and in each snapshot: 0.3 GB and 5.6 GB of disk for the two of `small`, 6.9 GB and
    # 138 GB for those of `base`, which therefore has none.
    power_ema=(0.05, 0.1) if size == "small" else (),
    power_ema_every={"tiny": 250, "small": 5000, "base": 5000}[size],
    log_every={"tiny": 50, "small": 100, "base": 100}[size],
    validate_every={"tiny": 250, "small": 2000, "base": 2000}[size],
    validation_batches=16,
    sample_every={"tiny": 500, "small": 5000, "base": 5000}[size],
    checkpoint_every={"tiny": 250, "small": 2000, "base": 2000}[size],
    keep=2,
    keep_every=0,
    patience=0,
    profile_steps=0,
    on_nan="stop",
    max_skipped=10,
    init_from="",
  )
