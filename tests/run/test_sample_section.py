"""Settings of sampling: what is refused, what it costs, and noise levels as times."""

import numpy as np
import pytest

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.diffusion import sampler, schedule, times
from cxr_diffusion_jax.diffusion.samplers import multistep, second_order
from cxr_diffusion_jax.models import codec
from cxr_diffusion_jax.run import sample_section
from cxr_diffusion_jax.sampling import guiding


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"sampler": "plms"}, "sampler 'plms'; expected one of ddim"),
    ({"spacing": "even"}, "spacing 'even'; expected one of karras"),
    ({"sampler_options": "chrun=1", "sampler": "heun"}, "did you mean churn"),
    ({"sampler_options": "churn=1"}, "sampler_options 'churn'; expected one of end"),
    ({"sampler_options": "eta=1", "sampler": "ddim"}, "sampler_options 'eta'"),
    ({"sampler_options": "rho=a"}, "'rho=a'; expected a value of type float"),
    ({"sampler_options": "whole=1"}, "'whole=1'; expected whole=true or false"),
    ({"sampler_options": "rho=-1"}, "rho=-1.0 of times; expected above 0"),
    ({"times_shift": 0}, "config.sample.times_shift=0; expected above 0"),
    (
      {"times_shift": 2, "spacing": "karras"},
      "times_shift=2 with the spacing 'karras'",
    ),
    ({"eta": 0.5}, r"eta=0.5 with the sampler 'euler', which .* \['ddim', 'dpm_"),
    ({"eta": 2, "sampler": "ddim"}, "config.sample.eta=2; expected 0 to 1"),
    ({"dynamic_threshold": 1}, "dynamic_threshold=1; expected 0 for none, or a quan"),
    ({"clip_x0": (1, -1)}, r"clip_x0=\(1, -1\); expected two numbers, low < high"),
    ({"num_steps": 0}, "config.sample.num_steps=0; expected 1 or more"),
    ({"num_images": 0}, "config.sample.num_images=0; expected 1 or more"),
    ({"guidance": "2"}, "config.sample.guidance='2'; expected a finite number"),
    ({"guidance": True}, "config.sample.guidance=True; expected a finite number"),
    ({"guidance": []}, r"config.sample.guidance=\[\]; expected a finite number"),
    ({"guidance": (1, np.nan)}, r"config.sample.guidance=\(1, nan\)"),
    ({"guidance_rescale": 1.1}, "config.sample.guidance_rescale=1.1; expected 0 to 1"),
    ({"guidance_rescale": "a"}, "config.sample.guidance_rescale='a'"),
    ({"guidance_interval": (2, 2)}, r"guidance_interval=\(2, 2\); expected two noise"),
    ({"guidance_interval": [-1, 2]}, r"guidance_interval=\[-1, 2\]; .* 0 <= low < hi"),
    ({"guidance_interval": (1,)}, r"guidance_interval=\(1,\)"),
    ({"guidance_interval": (0, np.nan)}, r"guidance_interval=\(0, nan\)"),
    ({"guidance_interval": ("(0, inf)",)}, "two noise levels"),
  ],
)
def test_sample_settings_refuse_wrong_values(changes, message):
  with pytest.raises(errors.InputError, match=message):
    sample_section.SampleSettings(**changes)


def test_sample_settings_are_hashable_and_print():
  settings = sample_section.SampleSettings(
    guidance=[3, 1.5], guidance_interval=[0.2, np.inf]
  )
  assert settings.guidance == (3, 1.5)
  assert settings.guidance_interval == (0.2, np.inf)
  assert settings.guidance_text == "3,1.5"
  # What a flag of a list makes of one number.
  assert sample_section.SampleSettings(guidance=(2.0,)).guidance == 2.0
  assert sample_section.SampleSettings(guidance=(2.0,)).guidance_text == "2"


@pytest.mark.parametrize(
  "path",
  [
    schedule.RectifiedFlow(),
    schedule.RectifiedFlow(shift=3.0),
    schedule.Cosine(),
    schedule.ScaledLinear(),
  ],
)
def test_interval_times_converts_noise_levels(path):
  settings = sample_section.SampleSettings(guidance_interval=(0.3, 2.0))
  low, high = guiding.interval_times(settings, path)
  assert 0 < low < high < 1
  for time, level in ((low, 0.3), (high, 2.0)):
    assert path.sigma(time) / path.alpha(time) == pytest.approx(level, rel=1e-3)
  settings = sample_section.SampleSettings(guidance_interval=(0, np.inf))
  assert guiding.interval_times(settings, path) == (0.0, 1.0)
  settings = sample_section.SampleSettings(guidance_interval=(0, 1e9))
  assert guiding.interval_times(settings, path)[1] == pytest.approx(1.0)
  assert guiding.interval_times(sample_section.SampleSettings(), path) is None


def test_make_sampler_follows_the_settings():
  plain = sample_section.make_sampler(sample_section.SampleSettings())
  assert plain == sampler.Sampler(num_steps=25)
  settings = sample_section.SampleSettings(
    sampler="dpm_solver_2m_sde",
    num_steps=10,
    spacing="trailing",
    times_shift=3.0,
    eta=0.5,
    dynamic_threshold=0.995,
    clip_x0=[-1, 1],
  )
  assert sample_section.make_sampler(settings, start=0.6) == sampler.Sampler(
    method=multistep.DPMSolver2MSDE(eta=0.5),
    num_steps=10,
    times=times.Times(spacing="trailing", shift=3.0, start=0.6),
    clip_x0=(-1, 1),
    dynamic_threshold=0.995,
  )


@pytest.mark.parametrize(
  "options",
  ["churn=40,rho=5,skip_last=true", {"churn": 40, "rho": 5, "skip_last": True}],
)
def test_make_sampler_reads_options_of_sampler_and_times(options):
  settings = sample_section.SampleSettings(
    sampler="heun", spacing="karras", sampler_options=options
  )
  assert isinstance(settings.sampler_options, str)
  assert sample_section.make_sampler(settings) == sampler.Sampler(
    method=second_order.Heun(churn=40.0),
    num_steps=25,
    times=times.Times(spacing="karras", rho=5.0, skip_last=True),
  )


def test_check_codec_allows_clipping_only_for_pixels():
  for changes in ({"dynamic_threshold": 0.995}, {"clip_x0": (-1, 1)}):
    settings = sample_section.SampleSettings(**changes)
    guiding.check_codec(settings, codec.Pixel())
    wavelets = codec.Haar(levels=1, mean=(0.0,) * 4, std=(1.0,) * 4)
    with pytest.raises(errors.InputError, match="with the codec 'haar'"):
      guiding.check_codec(settings, wavelets)


def test_evaluations_of_two_stages_are_more():
  settings = sample_section.SampleSettings(sampler="heun", num_steps=10, guidance=2.0)
  assert sample_section.evaluations(settings, 1, weak=False) == 38


def test_evaluations_refuse_scales_of_other_streams():
  for guidance, weak in (((1.0, 2.0, 3.0), False), ((1.0, 2.0), True)):
    settings = sample_section.SampleSettings(guidance=guidance)
    with pytest.raises(ValueError, match="scales for 2 streams"):
      sample_section.evaluations(settings, 2, weak)
