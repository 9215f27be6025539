"""Which sampler of ours is which scheduler of diffusers, and what both are run on.

`cases` lists them; the network is a formula of x and t. Without torch: the peer's side
is in make_diffusers_samplers.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

from cxr_diffusion_jax.diffusion import process, sampler, schedule, times


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
  """A scheduler of diffusers, and the sampler of ours that it is.

  Attributes:
    name: says it in a line.
    peer: class in diffusers, without Scheduler.
    settings: its arguments, besides those of `settings_of`.
    sampler: our name.
    method: our method's arguments.
    times: arguments of our times.
    path: our schedule: a name and its arguments.
    prediction: in our words.
    num_steps: steps.
    given: arguments of the peer's set_timesteps in place of a count of steps.
    time_input: 'level' where the network sees the peer's timesteps, 'sigma' where the
      peer rounds them down, and is given the noise level in place of them.
    live: compared only where torch is installed, so that the tests stay short.
  """

  name: str
  peer: str
  settings: dict = dataclasses.field(default_factory=dict)
  sampler: str
  method: dict = dataclasses.field(default_factory=dict)
  times: dict = dataclasses.field(default_factory=dict)
  path: tuple[str, dict] = ("scaled_linear", {})
  prediction: str = "epsilon"
  num_steps: int = 8
  given: dict = dataclasses.field(default_factory=dict)
  time_input: str = "level"
  live: bool = False


def cases() -> tuple[Case, ...]:
  """All that are compared."""
  return (*_one_step(), *_multistep(), *_of_sigma(), *_of_flow())


def _one_step() -> tuple[Case, ...]:
  off = {"clip_sample": False}
  zero = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
  return (
    Case(
      name="ddpm, leading, epsilon",
      peer="DDPM",
      settings={"timestep_spacing": "leading", **off},
      sampler="ddpm",
      times={"spacing": "leading", "offset": 0},
    ),
    Case(
      name="ddpm, linspace, v, linear betas",
      live=True,
      peer="DDPM",
      settings={"timestep_spacing": "linspace", **off},
      sampler="ddpm",
      times={"spacing": "linspace"},
      path=("linear", {}),
      prediction="v",
    ),
    Case(
      name="ddim, leading + 1, to the lowest level, epsilon (Stable Diffusion)",
      peer="DDIM",
      settings={"steps_offset": 1, "set_alpha_to_one": False, **off},
      sampler="ddim",
      times={"spacing": "leading", "end": "lowest"},
    ),
    Case(
      name="ddim, trailing, zero terminal SNR, v",
      peer="DDIM",
      settings={**zero, **off},
      sampler="ddim",
      times={"spacing": "trailing"},
      path=("scaled_linear", {"zero_terminal_snr": True}),
      prediction="v",
    ),
    Case(
      name="ddim, trailing, eta 0.7, v, squared cosine betas",
      peer="DDIM",
      settings={"timestep_spacing": "trailing", **off},
      sampler="ddim",
      method={"eta": 0.7},
      times={"spacing": "trailing"},
      path=("squared_cosine", {}),
      prediction="v",
    ),
    Case(
      name="ddim, leading + 1, eta 1, epsilon",
      live=True,
      peer="DDIM",
      settings={"steps_offset": 1, **off},
      sampler="ddim",
      method={"eta": 1.0},
      times={"spacing": "leading"},
    ),
  )


def _multistep() -> tuple[Case, ...]:
  result = []
  stochastic = {"algorithm_type": "sde-dpmsolver++"}
  for peer, ours, extra in (
    ("DPMSolverMultistep", "dpm_solver_2m", {}),
    ("DPMSolverMultistep", "dpm_solver_2m_sde", stochastic),
    ("UniPCMultistep", "unipc", {}),
  ):
    result += [
      Case(
        name=f"{ours}, linspace, epsilon",
        peer=peer,
        settings=extra,
        sampler=ours,
        times={"spacing": "linspace", "skip_last": True},
      ),
      Case(
        name=f"{ours}, leading + 1, v",
        live=True,
        peer=peer,
        settings={"timestep_spacing": "leading", "steps_offset": 1, **extra},
        sampler=ours,
        times={"spacing": "leading", "skip_last": True},
        prediction="v",
      ),
      Case(
        name=f"{ours}, karras, v",
        peer=peer,
        settings={"use_karras_sigmas": True, **extra},
        sampler=ours,
        times={"spacing": "karras"},
        prediction="v",
      ),
    ]
  lowest = {"timestep_spacing": "trailing", "final_sigmas_type": "sigma_min"}
  for num_steps in (8, 16):
    result.append(
      Case(
        name=f"dpm_solver_2m, {num_steps} trailing, to the lowest level, epsilon",
        live=num_steps == 16,
        peer="DPMSolverMultistep",
        settings=lowest,
        sampler="dpm_solver_2m",
        times={"spacing": "trailing", "end": "lowest"},
        num_steps=num_steps,
      )
    )
  return tuple(result)


def _of_sigma() -> tuple[Case, ...]:
  result = []
  for peer, ours in (
    ("EulerDiscrete", "euler"),
    ("EulerAncestralDiscrete", "euler_ancestral"),
    ("HeunDiscrete", "heun"),
  ):
    result += [
      Case(
        name=f"{ours}, linspace, epsilon",
        peer=peer,
        settings={"timestep_spacing": "linspace"},
        sampler=ours,
        times={"spacing": "linspace", "whole": False},
      ),
      Case(
        name=f"{ours}, trailing, v",
        live=ours != "euler",
        peer=peer,
        settings={"timestep_spacing": "trailing"},
        sampler=ours,
        times={"spacing": "trailing"},
        prediction="v",
      ),
    ]
    if ours == "euler_ancestral":
      continue
    result.append(
      Case(
        name=f"{ours}, karras, epsilon",
        peer=peer,
        settings={"use_karras_sigmas": True},
        sampler=ours,
        times={"spacing": "karras", "whole": False},
      )
    )
  return tuple(result)


def _of_flow() -> tuple[Case, ...]:
  plain = {"path": ("rectified_flow", {}), "prediction": "velocity"}
  result = [
    Case(
      name=f"euler, flow, shift {shift:g}, linspace",
      live=shift == 1,
      peer="FlowMatchEulerDiscrete",
      settings={"shift": shift},
      sampler="euler",
      times={"spacing": "linspace", "shift": shift},
      **plain,
    )
    for shift in (1.0, 3.0)
  ]
  result.append(
    Case(
      name="euler, flow, shift 3, trailing",
      peer="FlowMatchEulerDiscrete",
      settings={"shift": 3.0},
      sampler="euler",
      times={"spacing": "trailing", "shift": 3.0},
      given={"sigmas": [1 - i / 8 for i in range(8)]},
      **plain,
    )
  )
  flow = {"prediction_type": "flow_prediction", "use_flow_sigmas": True}
  for peer, ours in (
    ("DPMSolverMultistep", "dpm_solver_2m"),
    ("UniPCMultistep", "unipc"),
  ):
    result.append(
      Case(
        name=f"{ours}, flow, even from 0.999",
        peer=peer,
        settings=flow,
        sampler=ours,
        times={"spacing": "time", "start": 0.999},
        time_input="sigma",
        **plain,
      )
    )
  return tuple(result)


def network(x, t, sin):
  """A prediction [...] of x [...] and t in [0, 1], for arrays of any library.

  Args:
    x: of standard deviation about 1.
    t: a number, or an array that broadcasts with x.
    sin: the library's sine.
  """
  return 0.6 * sin(1.7 * x + 4.0 * t) + 0.4 * x * (1.0 - t * t) + 0.3 * t


def start(shape: tuple[int, ...]) -> np.ndarray:
  """The first noise, float32, of standard deviation about 1."""
  count = math.prod(shape)
  return np.float32(1.4 * np.sin(np.arange(count) * 2.39 + 0.3)).reshape(shape)


def run_ours(case: Case, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
  """Runs our sampler of a case from the same noise; see `follow` of the peer."""

  path = process.Process(
    schedule=schedule.load(case.path[0])(**case.path[1]), prediction=case.prediction
  )
  draw = sampler.Sampler(
    method=sampler.load(case.sampler)(**case.method),
    num_steps=case.num_steps,
    times=times.Times(**case.times),
  )

  def denoise_fn(x, t, context):
    del context
    return network(x, t.reshape(-1, *(1,) * (x.ndim - 1)), jnp.sin)

  def run(x, keys):
    steps = draw.times(path, draw.num_steps)[:-1]
    return steps, draw.follow(path, denoise_fn, x, (), keys)[2]

  return jax.jit(run)(start(shape), keys_of(shape))


def keys_of(shape: tuple[int, ...]):
  """Typed keys of the samples."""
  return jax.random.split(jax.random.key(11), shape[0])


def fresh_of(case: Case, shape: tuple[int, ...]) -> np.ndarray:
  """The fresh noise [num_steps *shape] of our samplers."""

  keys = keys_of(shape)
  rows = [sampler.fresh_noise(keys, step, shape[1:]) for step in range(case.num_steps)]
  return np.stack(rows)
