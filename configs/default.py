"""The whole recipe, without a condition: what every config starts from.

A size sets the image, the code that is denoised, the network and its batch:

  size      image  code        parameters  meant for
  tiny       64    16x16x16    about 2 M   tests, the demo, a laptop
  small     256    64x64x16    about 35 M  one GPU
  base      512    64x64x64    860 M       TPU slices, several GPUs
  dit_tiny   64    16x16x16    about 4 M   tiny's FLOPs, by a transformer
  dit_s     256    64x64x16    40 M        one GPU
  dit_b     512    64x64x64    160 M       several GPUs
  dit_l     512    64x64x64    560 M       TPU slices, several GPUs
  dit_xl    512    64x64x64    826 M       TPU slices, several GPUs
  radit_b   512    64x64x64    310 M       several GPUs: RadiT's size, see
  radit_l   512    64x64x64    600 M       `networks.radit`; kl_radit_b and so on are
  radit_xl  512    64x64x64    1,310 M     closest to the paper
  edm2_tiny   64   16x16x16    about 2 M   tiny's FLOPs, with EDM2's layers and its
                                           recipe: `edm` below, no weight decay
  edm2_small  256  64x64x16    about 32 M  one GPU

`kl_` before a size denoises latents of Stable Diffusion's autoencoder, or of the one in
config.codec.folder, in place of wavelets: at 256 pixels 32x32x4, at 512 64x64x4, and
`kl_base` has all of Stable Diffusion 1.5's shapes. It is what to take at 256 and 512
pixels; see docs/networks.md, also for the cost and the sources of every size.

A recipe sets what is learned of the noise; `configs/PATH.py:SIZE` has the first one,
`configs/PATH.py:SIZE,RECIPE` another:

  flow             rectified flow, velocity, logit-normal times
  flow_x0          the same with x0, and the loss of the velocity that x0 implies
  ddpm_epsilon     Stable Diffusion's noise levels, down to a logsnr of -12; epsilon
  ddpm_v_zero_snr  the same with v and a last level of pure noise
  original_study   ddpm_epsilon with weights linear in the timestep
  improved_ddpm    squared-cosine levels, epsilon
  vp_epsilon       the variance-preserving SDE, epsilon
  min_snr_v        cosine, v, min-SNR weights
  sigmoid_v        cosine, v, sigmoid weights
  edm              EDM's noise, preconditioning, weights and times
"""

import ml_collections
from ml_collections import config_dict

from configs import networks, training

# A size's network, and the scale of all else: image, code, batch, steps.
SCALES = {
  "tiny": "tiny",
  "small": "small",
  "base": "base",
  "dit_tiny": "tiny",
  "dit_s": "small",
  "dit_b": "base",
  "dit_l": "base",
  "dit_xl": "base",
  "radit_b": "base",
  "radit_l": "base",
  "radit_xl": "base",
  "edm2_tiny": "tiny",
  "edm2_small": "small",
}


RECIPES = (
  "flow",
  "flow_x0",
  "ddpm_epsilon",
  "ddpm_v_zero_snr",
  "original_study",
  "improved_ddpm",
  "vp_epsilon",
  "min_snr_v",
  "sigmoid_v",
  "edm",
)

# Of every recipe; see docs/results/samplers.md. The spacing follows the data.
SAMPLER = {"sampler": "unipc", "num_steps": 25, "spacing": "spectrum"}


def get_config(choice: str = "small") -> ml_collections.ConfigDict:
  """Returns the recipe of a size, to be given a `conditioning` section.

  Args:
    choice: SIZE or SIZE,RECIPE.

  Raises:
    ValueError: there is no such size or recipe.
  """
  choice, _, recipe = choice.partition(",")
  latent, choice = choice.startswith("kl_"), choice.removeprefix("kl_")
  if choice not in SCALES:
    raise ValueError(
      f"config size {choice!r}; expected one of {', '.join(SCALES)}, or kl_ and one"
    )
  size = SCALES[choice]
  config = ml_collections.ConfigDict()
  config.seed = 0

  config.data = dict(
    root="nih-cxr",
    source="nih",
    columns="",
    views="PA,AP,unknown",
    rename="",
    vocabulary="",
    image_size={"tiny": 64, "small": 256, "base": 512}[size],
    records_dir="records",
    resize="crop",
    split="auto",
    validation_fraction=0.05,
    train_on_expert=False,
    missing="error",
    phantom_images=0,
    phantom_seed=0,
    phantom_visits=0.0,
    standin=False,
    standin_steps=800,
    prompts="labels",
    prompt_seed=0,
    captions=4,
    caption_drop=0.1,
    balance=0.0,
    augment=0.0,
    num_workers=0,
  )
  config.codec = dict(
    name="haar",
    levels={"tiny": 2, "small": 2, "base": 3}[size],
    loss_power=1.0,
  )
  if latent:
    config.codec = dict(
      name="kl",
      folder="stabilityai/sd-vae-ft-mse",
      posterior="sample",
      scaling_factor="own",
    )
  network, _, network_size = choice.rpartition("_")
  config.model = {
    "": networks.unet,
    "dit": networks.dit,
    "edm2": networks.edm2,
    "radit": networks.radit,
  }[network](network_size)
  if latent and choice == "small":
    # Half the side of its wavelets: attention at the same sides as there.
    config.model.attention = (False, True, True, True)
  if latent and choice == "base":
    # Stable Diffusion's network exactly, to be imported and exported.
    config.model.query_positions = False
  config.diffusion, sampling = diffusion(
    recipe or ("edm" if network == "edm2" else "flow")
  )
  kind = network if network in ("", "edm2") else "dit"
  config.optimizer = training.optimizer(kind or "unet", size)
  config.train = training.train(size)
  config.repa = dict(
    weight=0.0,
    column="elixrc",
    encoder="",
    layer=-1,
    projector_width={"tiny": 256, "small": 1024, "base": 2048}[size],
  )
  config.sample = dict(
    guidance=1.5,
    guidance_interval=(),
    guidance_rescale=0.0,
    num_images=8,
    times_shift=1.0,
    eta=config_dict.placeholder(float),
    sampler_options="",
    dynamic_threshold=0.0,
    clip_x0=(),
  )
  config.sample.update(SAMPLER | sampling)
  config.parallel = dict(
    data=-1,
    fsdp=1,
    tensor=1,
    num_devices=0,
    # Parameters, averages and moments of 160 M to 1.3 B may not fit one chip.
    mesh="auto" if size == "base" else "axes",
  )
  return config


def diffusion(recipe: str) -> tuple[dict, dict]:
  """Returns the section `diffusion` of a recipe, and its changes to `sample`.

  Raises:
    ValueError: there is no such recipe.
  """
  uniform = dict(name="uniform", stratified=True)
  levels = dict(
    name="scaled_linear",
    beta_start=0.00085,
    beta_end=0.012,
    num_levels=1000,
    zero_terminal_snr=False,
    # Published levels end at -5.4: pure noise is not what a sampler should begin with.
    terminal_logsnr=-12.0,
  )
  flow = dict(
    schedule=dict(name="rectified_flow", shift=1.0),
    prediction="velocity",
    time_sampler=dict(
      name="logit_normal", mean=0.0, std=1.0, shift=0.0, stratified=True
    ),
  )
  recipes = {
    "flow": flow,
    "flow_x0": flow
    | dict(prediction="x0", weighting=dict(name="velocity", floor=0.05)),
    "ddpm_epsilon": dict(schedule=levels, prediction="epsilon"),
    "ddpm_v_zero_snr": dict(
      schedule=levels | dict(zero_terminal_snr=True, terminal_logsnr=None),
      prediction="v",
    ),
    "original_study": dict(
      schedule=levels,
      prediction="epsilon",
      weighting=dict(name="linear_timestep", slope=1.0),
    ),
    "improved_ddpm": dict(
      schedule=dict(name="squared_cosine", num_levels=1000, zero_terminal_snr=False),
      prediction="epsilon",
    ),
    "vp_epsilon": dict(
      # The paper's 20 leaves too much of strong modes at t = 1.
      schedule=dict(name="vp", beta_min=0.1, beta_max=25.0),
      prediction="epsilon",
    ),
    "min_snr_v": dict(
      schedule=dict(name="cosine", shift=1.0),
      prediction="v",
      weighting=dict(name="min_snr", gamma=5.0),
    ),
    "sigmoid_v": dict(
      schedule=dict(name="cosine", shift=1.0),
      prediction="v",
      weighting=dict(name="sigmoid", bias=2.0),
    ),
    # The paper's numbers for data of standard deviation 0.5; a codec's bands have 1,
    # so the logarithm of 2 is added to the mean of -1.2. The greatest sigma is larger
    # than the paper's 80, since it must be many times the deviation of a code's first
    # mode, which is 37 at 256 pixels.
    "edm": dict(
      schedule=dict(name="edm", sigma_min=0.002, sigma_max=400.0, rho=7.0),
      prediction="x0",
      preconditioning=dict(name="edm", sigma_data=1.0),
      time_sampler=dict(
        name="log_normal", mean=-0.5, std=1.2, shift=0.0, stratified=True
      ),
      weighting=dict(name="edm", sigma_data=1.0),
    ),
  }
  if recipe not in RECIPES:
    raise ValueError(f"config recipe {recipe!r}; expected one of {', '.join(RECIPES)}")
  section = dict(
    preconditioning=dict(name="none"),
    time_sampler=uniform,
    weighting=dict(name="uniform"),
  )
  # Guidance overexposes where the last level is pure noise: 2305.08891, section 3.4.
  sampling = {"ddpm_v_zero_snr": dict(guidance_rescale=0.7)}
  return section | recipes[recipe], sampling.get(recipe, {})
