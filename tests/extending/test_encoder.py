"""A path with an encoder of its own is three files: encoder, path and config."""

import numpy as np

from cxr_diffusion_jax.encoders import opening
from cxr_diffusion_jax.run import run as run_lib


def test_encoder_path_and_config_are_three_files(
  install, small_dit, tmp_path, run_main
):
  install("encoders/columns/grey.py")
  install("conditioning/grey_and_letters.py")
  config = install("configs/grey_and_letters.py")
  arguments = small_dit.arguments(tmp_path / "run", train__num_steps=2)
  arguments = [a for a in arguments[1:] if not a.startswith("--config.conditioning")]
  ended = run_main("main", f"--config={config}:dit_tiny", *arguments)
  assert ended.code == 0, ended.err
  run = run_lib.open_run(tmp_path / "run")
  needs = run.recipe.conditioner.needs
  assert needs.inputs == ("prompt", "findings", "reference")
  row = run.dataset.source("train")[0]
  for spec in needs.specs:
    encoder = opening.open_encoder(spec, run.card.columns[spec.name], [run.folder])
    if spec.source == "image":
      values = encoder.encode_images([spec.name], [row["image"][..., 0]])
      np.testing.assert_allclose(values[spec.name][0], row[spec.name], atol=1e-3)
    assert run.card.columns[spec.name].encoder == "grey means 1"
