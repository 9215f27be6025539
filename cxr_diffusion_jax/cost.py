"""Prints parameters and FLOPs of a config's denoiser, counted in two ways.

  python -m cxr_diffusion_jax.cost --config configs/elixr_c.py:tiny [small dit_s ...]

More sizes of the same config may follow; --config.KEY=VALUE applies to all of them.
FLOPs are per image; a multiply-add counts as two.
"""

import runpy

from absl import flags
from ml_collections import config_flags

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.cli import command, configs, flag_help

with flag_help.group("Config"):
  _CONFIG = configs.define()


def main(sizes: list[str]) -> None:
  """Builds each size's denoiser from shapes alone, counts it and prints a line."""
  from cxr_diffusion_jax.extras import cost as cost_lib
  from cxr_diffusion_jax.training import experiment as experiment_lib

  flag = flags.FLAGS["config"]
  path, _, first = config_flags.get_config_filename(flag).partition(":")
  configs = {first or "default": _CONFIG.value}
  for size in sizes:
    try:
      config = runpy.run_path(path)["get_config"](size)
    except ValueError as error:
      raise errors.InputError(str(error)) from error
    config.update_from_flattened_dict(config_flags.get_override_values(flag))
    configs[size] = config
  experiments = {name: experiment_lib.build(config) for name, config in configs.items()}
  for line in cost_lib.table(
    (name, cost_lib.of_experiment(experiment))
    for name, experiment in experiments.items()
  ):
    print(line, flush=True)


if __name__ == "__main__":
  command.run(main)
