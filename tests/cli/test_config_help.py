"""The help of a config: every key with its value, almost every one with a meaning."""

import pytest

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.cli import config_help, configs, flag_help


@pytest.mark.parametrize("name", ["elixr_c", "clip_text", "autoencoder"])
def test_help_lists_the_keys_of_a_config_with_meanings(name, run_main):
  command = "train_autoencoder" if name == "autoencoder" else "main"
  result = run_main(command, f"--config={name}", "--config.seed=7", "--help")
  assert result.code == 0, result.err
  assert "seed=7 " in result.out
  if name == "autoencoder":
    assert "discriminator.start_step=50000" in result.out
    assert "updates before" in " ".join(result.out.lower().split())
  else:
    assert "sample.sampler='unipc'" in result.out
    assert "conditioning.drop_rate=0.1" in result.out


@pytest.mark.parametrize("name", ["elixr_bc:tiny", "clip_text:edm2_tiny", "phantom"])
def test_config_help_describes_every_key(name):
  import importlib

  config, _, choice = name.partition(":")
  results = importlib.import_module(f"configs.{config}").get_config(
    *[choice][: len(choice)]
  )
  keys = config_help.keys(results)
  assert [key for _, key, _, meaning in keys if not meaning] == []


def test_meanings_are_read_from_docstrings():
  def build(*, width: int, depth: int):
    """Builds.

    Args:
      width: of a layer,
        in channels.
      depth: layers.

    Returns:
      Nothing.
    """

  assert flag_help.meanings(build) == {
    "width": "of a layer, in channels.",
    "depth": "layers.",
  }


@pytest.mark.parametrize(
  ("given", "resolved"),
  [
    (["--config", "elixr_c:tiny", "-x"], ["--config={}/elixr_c.py:tiny", "-x"]),
    (["--config=elixr_c"], ["--config={}/elixr_c.py"]),
    (["--config=elsewhere/findings.py:tiny"], ["--config={}/findings.py:tiny"]),
    (["--", "--config=none"], ["--", "--config=none"]),
  ],
)
def test_config_is_resolved_by_name(given, resolved):
  expected = [text.format(configs.FOLDER) for text in resolved]
  assert configs.resolve_flag(given) == expected


def test_resolve_flag_lists_configs_for_an_unknown_name():
  with pytest.raises(errors.InputError) as caught:
    configs.resolve_flag(["--config=configs/elixir_c.py"])
  text = str(caught.value)
  assert "no config configs/elixir_c.py; expected a file, or one of autoencoder" in text
  assert "clip_text" in text
  assert "did you mean elixr_c" in text
