"""Makes diffusers_schedules.json: diffusers' alphas_cumprod at some of 1000 levels.

Needs torch and diffusers, which this project does not. Run by hand, in an environment
that has both, when the fixture has to change:

  python tests/diffusion/make_diffusers_schedules.py
"""

import json
import pathlib

import numpy as np

# Our name, diffusers' name, the ends of the betas.
SCHEDULES = (
  ("linear", "linear", (0.0001, 0.02)),
  ("scaled_linear", "scaled_linear", (0.00085, 0.012)),
  ("squared_cosine", "squaredcos_cap_v2", ()),
)


def alphas_cumprod(peer: str, ends: tuple[float, ...], zero: bool) -> np.ndarray:
  """Diffusers' products [1000] float32, made in float32 as it makes them."""
  import diffusers

  scheduler = diffusers.DDPMScheduler(
    beta_schedule=peer,
    rescale_betas_zero_snr=zero,
    **dict(zip(("beta_start", "beta_end"), ends, strict=False)),
  )
  return scheduler.alphas_cumprod.numpy()


def main() -> None:
  """Writes the fixture beside this file."""
  levels = [0, 1, 2, *range(20, 1000, 49), 990, 997, 998, 999]
  result = {"levels": levels}
  for name, peer, ends in SCHEDULES:
    for zero in (False, True):
      values = alphas_cumprod(peer, ends, zero)[levels]
      result[f"{name},{zero}"] = [float(f"{value:.9g}") for value in values]
  path = pathlib.Path(__file__).with_name("diffusers_schedules.json")
  path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
  main()
