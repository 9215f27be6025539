"""An autoencoder of grey X-rays of our own, f4 or f8, for latent diffusion.

  python -m cxr_diffusion_jax.train_autoencoder --config configs/autoencoder.py:f8 \
    --config.data.root=nih-cxr --workdir runs/autoencoder_f8

A newcomer without data takes phantoms, 128x128, PSNR above 30 dB after 10 minutes on 2
CPU cores; `:phantom_f8` is the same with f8:

  python -m cxr_diffusion_jax.train_autoencoder \
    --config configs/autoencoder.py:phantom --workdir runs/autoencoder_phantom

A denoiser of a `kl_` size takes what it made, such as --config elixr_c:kl_small with
--config.codec.folder=runs/autoencoder_f8/autoencoder. `:f4` and `:f8` are for one GPU;
their sizes are those of Rombach et al. 2022 (2112.10752), their adversary joins late.
"""

from configs import default

CHOICES = ("f4", "f8", "phantom", "phantom_f8")


def get_config(choice: str = "f4"):
  """Returns the recipe of a factor, on a tree of X-rays or on phantoms."""
  if choice not in CHOICES:
    raise ValueError(f"config {choice!r}; expected one of {', '.join(CHOICES)}")
  f8 = choice.endswith("f8")
  phantom = choice.startswith("phantom")
  base = default.get_config("tiny" if phantom else "small")
  config = type(base)()
  config.seed = 0
  config.data = base.data
  config.parallel = base.parallel
  config.data.image_size = 128 if phantom else 512
  # It reads no condition.
  config.data.captions = 1
  if phantom:
    config.data.root = "phantom-cxr-128"
    config.data.phantom_images = 1200
    # A batch of two is too small to share.
    config.parallel.num_devices = 1

  channels = (128, 256, 512, 512)
  if phantom:
    # On a CPU most of the time goes into the highest resolution.
    channels = (16, 32, 32, 64)
  config.model = dict(
    latent_channels=4,
    block_channels=channels if f8 else channels[:3],
    num_layers=1 if phantom else 2,
    norm_groups=8 if phantom else 32,
    mid_attention=not phantom,
    remat=not phantom,
    dtype="auto",
  )
  config.loss = dict(
    reconstruction="l1",
    kl_weight=1e-6,
    perceptual="none" if phantom else "auto",
    perceptual_weight=1.0,
    # A network of convolutions learns from crops what it does to whole images.
    crop_size=0 if phantom else 256,
  )
  config.discriminator = dict(
    weight=0.0 if phantom else 0.5,
    adaptive=True,
    start_step=50_000,
    channels=64,
    num_layers=3,
    norm_groups=8,
  )
  config.optimizer = dict(
    learning_rate=4e-3 if phantom else 1e-4,
    schedule="cosine",
    warmup_steps=50 if phantom else 1000,
    final_rate=0.0,
    weight_decay=0.0,
    clip_norm=1.0,
    b1=0.9,
    b2=0.99,
    accumulation=1,
  )
  config.train = dict(
    num_steps=4000 if phantom else 200_000,
    batch_size=2 if phantom else 16,
    ema_decay=0.995 if phantom else 0.9995,
    power_ema=(),
    power_ema_every=1000,
    log_every=50,
    validate_every=1000 if phantom else 2000,
    validation_batches=0 if phantom else 64,
    sample_every=1000 if phantom else 5000,
    checkpoint_every=1000 if phantom else 2000,
    keep=2,
    keep_every=0,
    patience=0,
    profile_steps=0,
    on_nan="stop",
    max_skipped=10,
  )
  config.sample = dict(num_images=6)
  return config
