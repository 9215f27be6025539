"""A conditioning path over an existing column is two files: the path and a config."""

from cxr_diffusion_jax.run import run as run_lib


def test_path_over_an_existing_column_is_two_files(
  install, small_dit, tmp_path, run_main
):
  install("conditioning/elixr_means.py")
  config = install("configs/elixr_means.py")
  arguments = small_dit.arguments(tmp_path / "run", train__num_steps=2)
  arguments = [a for a in arguments[1:] if not a.startswith("--config.conditioning")]
  ended = run_main("main", f"--config={config}:dit_tiny", *arguments)
  assert ended.code == 0, ended.err
  run = run_lib.open_run(tmp_path / "run")
  assert run.checkpoint_step == 2
  assert run.recipe.conditioner.streams[0].num_tokens == 4
