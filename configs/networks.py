"""The section `model` of a config: each architecture's sizes.

size --unet, dit, radit or edm2--> the settings of `cxr_diffusion_jax/models`

A size's FLOPs: python -m cxr_diffusion_jax.cost --config configs/elixr_c.py:SIZE
"""


def unet(size: str) -> dict:
  """Returns the section `model` of a UNet."""
  return dict(
    name="unet",
    dtype="auto",
    scan_blocks="auto",
    dropout=_dropout(size),
    **{
      "tiny": dict(
        block_channels=(64, 80),
        num_layers=1,
        attention=(False, True),
        num_heads=4,
        context_width=80,
        norm_groups=8,
        query_positions=True,
        time_conditioning="scale_shift",
        remat=False,
      ),
      "small": dict(
        block_channels=(128, 128, 256, 288),
        num_layers=1,
        attention=(False, False, True, True),
        num_heads=8,
        context_width=384,
        norm_groups=32,
        query_positions=True,
        time_conditioning="scale_shift",
        remat=False,
      ),
      # Stable Diffusion 1.5's shape, so that its weights map one to one.
      "base": dict(
        block_channels=(320, 640, 1280, 1280),
        num_layers=2,
        attention=(True, True, True, False),
        num_heads=8,
        context_width=768,
        norm_groups=32,
        # No parameter: cross-attention finds places in the map of a reference.
        query_positions=True,
        time_conditioning="additive",
        remat=True,
      ),
    }[size],
  )


def dit(size: str) -> dict:
  """Returns the section `model` of a DiT: table 1 of the paper, and a tiny one."""
  depth, width, num_heads = {
    "tiny": (4, 192, 4),
    "s": (12, 384, 6),
    "b": (12, 768, 12),
    "l": (24, 1024, 16),
    "xl": (28, 1152, 16),
  }[size]
  return dict(
    name="dit",
    dtype="auto",
    dropout=_dropout(size),
    patch_size=2,
    depth=depth,
    width=width,
    num_heads=num_heads,
    mlp_ratio=4.0,
    context_mode="cross",
    positions="rotary",
    swiglu=False,
    # Bounds the logits of bfloat16 and of high rates.
    qk_norm=True,
    pooled=True,
    # Patches that overlap (docs/results/networks_on_phantoms.md); the others have the
    # paper's ends.
    stem="conv" if size == "tiny" else "linear",
    head="conv" if size == "tiny" else "linear",
    remat=size not in ("tiny", "s"),
    scan_blocks="auto",
  )


def radit(size: str) -> dict:
  """Returns the section `model` of a rectified flow transformer of RadiT's size.

  RadiT (2606.19460) has 0.3 B (B) and 1.3 B (XL) parameters. What we know of it and
  what is our choice is listed in docs/networks.md. The rule for the shape is that of
  Stable Diffusion 3 (2403.03206, section 5.3): heads of 64 channels, as many as blocks.
  """
  depth = {"b": 16, "l": 20, "xl": 26}[size]
  return {
    **dit("b"),
    "depth": depth,
    "width": 64 * depth,
    "num_heads": depth,
    "context_mode": "tokens",
    "dropout": 0.0,
  }


def edm2(size: str) -> dict:
  """Returns the section `model` of an EDM2 with about the FLOPs of the UNet."""
  return dict(
    name="edm2",
    dtype="auto",
    dropout=_dropout(size),
    **{
      "tiny": dict(
        block_channels=(64, 80),
        attention=(False, True),
        head_width=16,
        context_width=80,
      ),
      "small": dict(
        block_channels=(96, 160, 256, 320),
        attention=(False, False, True, True),
        head_width=64,
        context_width=384,
      ),
    }[size],
    num_layers=1,
    pooled=True,
    query_positions=True,
    unit_context=True,
    remat=False,
  )


def _dropout(size: str) -> float:
  """Against memorising; a tiny network on 2,400 phantoms has no capacity to spare."""
  return 0.0 if size == "tiny" else 0.1
