"""Prints parameters and FLOPs of a config's denoiser, counted in two ways.

  python -m cxr_diffusion_jax.cost --config configs/elixr_c.py:tiny [small dit_s ...]

More sizes of the same config may follow; --config.KEY=VALUE applies to all of them.
FLOPs are per image, and of the config's whole run; a multiply-add counts as two.
"""

from cxr_diffusion_jax.cli import command, configs, flag_help

with flag_help.group("Config"):
  _CONFIG = configs.define()


def main(sizes: list[str]) -> None:
  """Builds each size's denoiser from shapes alone, counts it and prints a line."""
  from cxr_diffusion_jax.extras import cost as cost_lib
  from cxr_diffusion_jax.training import experiment as experiment_lib

  of_sizes = configs.of_sizes(_CONFIG, sizes)
  experiments = {name: experiment_lib.build(of_sizes[name]) for name in of_sizes}
  for line in cost_lib.table(
    (name, cost_lib.of_experiment(experiment))
    for name, experiment in experiments.items()
  ):
    print(line, flush=True)


if __name__ == "__main__":
  command.run(main)
