"""Makes diffusers_samplers.json: what diffusers' schedulers make of a formula, by step.

Needs torch and diffusers, which this project does not. Run by hand, in an environment
that has them beside jax, when the fixture has to change:

  PYTHONPATH=. python tests/diffusion/make_diffusers_samplers.py

Fresh noise is this project's own, so that only the answers have to be stored.
"""

import json
import pathlib
import sys

import diffusers
import numpy as np
from sampler_cases import Case, cases, fresh_of, network, start
import torch


def settings_of(case: Case) -> dict:
  """All arguments of the peer."""
  if case.peer.startswith("FlowMatch"):
    return case.settings
  betas = {
    "linear": {"beta_schedule": "linear", "beta_start": 0.0001, "beta_end": 0.02},
    "scaled_linear": {
      "beta_schedule": "scaled_linear",
      "beta_start": 0.00085,
      "beta_end": 0.012,
    },
    "squared_cosine": {"beta_schedule": "squaredcos_cap_v2"},
  }.get(case.path[0], {})
  kind = {"v": "v_prediction"}.get(case.prediction, case.prediction)
  return {**betas, "prediction_type": kind, **case.settings}


def follow(case: Case, fresh: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Runs the peer.

  Args:
    case: what to run.
    fresh: [num_steps ...] the noise that each step adds, if it adds any.

  Returns:
    The network's time at each step, in [0, 1], [num_steps]; and x after each step,
    [num_steps ...], scaled so that it is alpha x0 + sigma noise.
  """
  scheduler = getattr(diffusers, f"{case.peer}Scheduler")(**settings_of(case))
  scheduler.set_timesteps(**case.given or {"num_inference_steps": case.num_steps})
  module = sys.modules[type(scheduler).__module__]
  queue = iter(torch.from_numpy(np.array(fresh)))
  if hasattr(module, "randn_tensor"):
    module.randn_tensor = lambda *_, **__: next(queue)

  # DDIM's eta is an argument of the step.
  extra = case.method if case.peer == "DDIM" else {}

  def norm(index):
    """What the peer's x is divided by at one of its points."""
    return (1 + scheduler.sigmas[index] ** 2) ** 0.5 if scaled else 1.0

  scaled = case.peer in ("EulerDiscrete", "EulerAncestralDiscrete", "HeunDiscrete")
  x = torch.from_numpy(start(fresh.shape[1:])) * first_noise(case, scheduler)
  x = x * norm(0)
  reported, states = [], []
  for row, level in enumerate(scheduler.timesteps):
    t = level / 1000 if case.time_input == "level" else scheduler.sigmas[row]
    seen = scheduler.scale_model_input(x, level) if scaled else x
    prediction = network(seen, t, torch.sin)
    x = scheduler.step(prediction, level, x, return_dict=False, **extra)[0]
    reported.append(float(t))
    states.append((x / norm(row + 1)).numpy())
  stages = 2 if case.peer == "HeunDiscrete" else 1
  ends = [row for row in range(len(states)) if (row + 1) % stages == 0]
  ends = sorted({*ends, len(states) - 1})
  return np.array(reported[::stages]), np.stack([states[row] for row in ends])


def first_noise(case: Case, scheduler) -> float:
  """Our sigma at the peer's first point; 1 where ours is given x_t itself."""
  if case.times.get("start", 1) < 1:
    return 1.0
  if case.peer in ("DDPM", "DDIM"):
    return float(1 - scheduler.alphas_cumprod[scheduler.timesteps[0]]) ** 0.5
  sigma = float(scheduler.sigmas[0])
  return sigma if case.prediction == "velocity" else sigma / (1 + sigma**2) ** 0.5


def main() -> None:
  """Writes the fixture beside this file."""
  shape = (2, 3)
  result = {}
  for case in cases():
    if case.live:
      continue
    reported, states = follow(case, fresh_of(case, shape))
    result[case.name] = {
      "times": [float(f"{t:.8g}") for t in reported],
      "states": [[float(f"{x:.7g}") for x in state.ravel()] for state in states],
    }
  path = pathlib.Path(__file__).with_name("diffusers_samplers.json")
  text = ",\n".join(
    f"{json.dumps(name)}: {json.dumps(value)}" for name, value in result.items()
  )
  path.write_text(f"{{\n{text}\n}}\n", encoding="utf-8")


if __name__ == "__main__":
  main()
