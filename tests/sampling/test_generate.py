"""Images of a known denoiser: guidance, batches, keys and grey levels."""

import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cxr_diffusion_jax import errors, types
from cxr_diffusion_jax.diffusion import process
from cxr_diffusion_jax.parallel import mesh as mesh_lib
from cxr_diffusion_jax.run import denoiser
from cxr_diffusion_jax.sampling import generate


@pytest.fixture(scope="module")
def mesh() -> jax.sharding.Mesh:
  return mesh_lib.make_mesh(data=-1)


def _mean_of_noise(params, batch, keys):
  """Stands for a compiled generator: of the condition and of the key alone."""
  noise = jax.vmap(lambda key: jax.random.uniform(key, (2, 2, 1), minval=-1))(keys)
  return params * noise + batch["shift"].reshape(-1, 1, 1, 1)


def _generator(compiled, mesh) -> generate.Generator:
  """A generator with this function in place of its compiled one."""
  recipe = SimpleNamespace(mesh=mesh)
  generator = generate.Generator(recipe=recipe, settings=SETTINGS)
  vars(generator)["compiled"] = compiled
  return generator


def _rows(mesh, numbers, batch_size, messages=None):
  conditions = {"shift": np.linspace(-0.1, 0.1, 20, dtype=np.float32)[numbers]}
  return _generator(_mean_of_noise, mesh).generate(
    0.5,
    conditions,
    seed=3,
    numbers=np.asarray(numbers),
    batch_size=batch_size,
    progress=lambda label, done, total: (
      messages is not None and messages.append((done, total))
    ),
  )


@pytest.mark.parametrize("batch_size", [1, 8, 12, 64])
def test_generate_rows_do_not_depend_on_their_batch(batch_size, mesh):
  messages = []
  numbers = np.arange(20)
  result = _rows(mesh, numbers, batch_size, messages)
  assert result.shape == (20, 2, 2, 1)
  assert result.dtype == np.uint8
  np.testing.assert_array_equal(result, _rows(mesh, numbers, 20))
  np.testing.assert_array_equal(result[5:7], _rows(mesh, numbers[5:7], batch_size))
  assert messages[-1] == (20, 20)
  assert len(np.unique(result, axis=0)) == 20


def test_sample_keys_depend_on_seed_and_number(mesh):
  keys = jax.random.key_data(generate.sample_keys(0, np.arange(4)))
  again = jax.random.key_data(generate.sample_keys(0, np.array([2])))
  np.testing.assert_array_equal(keys[2], again[0])
  other = jax.random.key_data(generate.sample_keys(1, np.arange(4)))
  assert len(np.unique(np.concatenate([keys, other]), axis=0)) == 8


def test_to_uint8_covers_the_range_and_clips():
  grey = generate.to_uint8(np.array([-2, -1, 0, 1 - 1 / 255, 1, 3], np.float32))
  np.testing.assert_array_equal(grey, [0, 0, 128, 254, 255, 255])
  levels = np.arange(256, dtype=np.uint8)
  np.testing.assert_array_equal(generate.to_uint8(levels / 127.5 - 1), levels)


class _Codec:
  """Decodes to pictures far from the limits."""

  columns = ()
  mode_variance = 0.0

  def decode(self, latent):
    return latent / 1000


class _Conditioner:
  """Streams `text` and `image` of one token, from columns of those names [b 1]."""

  streams = tuple(
    types.StreamSpec(name=name, num_tokens=1, width=1) for name in ("text", "image")
  )

  def __call__(self, batch):
    return tuple(
      types.TokenStream(tokens=batch[name][:, None], mask=batch[name] != 0)
      for name in ("text", "image")
    )


@pytest.fixture
def known():
  """An objective whose denoiser is known, and the rows of its calls.

  velocity = params (a + 10 b + a b), a and b of the streams: x0 = noise - its mean.
  """
  rows = []

  def apply_fn(variables, x_t, t, context):
    jax.debug.callback(lambda x_t: rows.append(len(x_t)), x_t)
    a, b = (jnp.sum(s.tokens * s.mask[..., None], axis=(1, 2)) for s in context)
    said = variables["params"] * (a + 10 * b + a * b)
    return jnp.zeros_like(x_t) + said[:, None, None, None]

  known = denoiser.Denoiser(
    apply_fn=apply_fn,
    codec=_Codec(),
    conditioner=_Conditioner(),
    process=process.Process(),
  )
  return known, rows


A, B = np.array([1.0, 2.0, 3.0], np.float32), np.array([2.0, 0.0, -1.0], np.float32)
BATCH = {"text": A[:, None], "image": B[:, None]}
BOTH = A + 10 * B + A * B


SETTINGS = generate.SampleSettings(num_steps=4, guidance=1.0)


@pytest.fixture
def said(known):
  """What was subtracted from the noise of three images: `said(settings, **extra)`."""
  one = mesh_lib.make_mesh(data=1, num_devices=1)
  keys = generate.sample_keys(0, np.arange(3))
  nothing = {name: np.zeros_like(value) for name, value in BATCH.items()}
  noise = generate.make_generate(known[0], SETTINGS, (2, 2, 1), one)(1.0, nothing, keys)

  def run(settings=None, *, make=None, **extra):
    make = make or generate.make_generate(known[0], settings, (2, 2, 1), one)
    difference = np.asarray(noise - make(1.0, BATCH, keys, **extra))
    assert np.ptp(difference, axis=(1, 2, 3)).max() < 1e-5
    return 1000 * difference.mean((1, 2, 3))

  run.mesh = one
  return run


def _settings(**changes):
  return dataclasses.replace(SETTINGS, **changes)


def _close(got, want):
  np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("scale", [0.0, 1.0, 2.5])
def test_generate_guides_by_the_whole_condition(said, scale):
  _close(said(_settings(guidance=scale)), scale * BOTH)
  # The same scale as an argument.
  _close(said(_settings(guidance=2.0), scale=scale), scale * BOTH)


@pytest.mark.parametrize("scales", [(3.0, 1.5), (1.0, 0.0), (0.0, 2.0), (0.0, 0.0)])
def test_generate_composes_a_scale_per_stream(said, scales):
  want = scales[0] * A + scales[1] * 10 * B
  _close(said(_settings(guidance=scales)), want)


def test_generate_refuses_scales_of_other_streams(said):
  message = r"guidance=1,2,3: 3 scales; expected one number, or 2: text, image"
  with pytest.raises(errors.InputError, match=message):
    said(_settings(guidance=(1, 2, 3)))


def test_generate_limits_guidance_to_its_interval(said):
  # Four steps look at 1, 3/4, 1/2 and 1/4: noise levels inf, 3, 1 and 1/3.
  for interval, inside in (((0.5, 4), 2), ((0, np.inf), 4), ((4, 1e30), 1)):
    got = said(_settings(guidance=3.0, guidance_interval=interval))
    _close(got, BOTH * (3 * inside + 4 - inside) / 4)


def test_generate_replaces_the_null_by_a_negative_condition(said):
  negative = {"text": np.full((3, 1), 0.5, np.float32), "image": A[:, None]}
  away = 0.5 + 10 * A + 0.5 * A
  _close(said(_settings(guidance=3.0), negative=negative), away + 3 * (BOTH - away))
  _close(said(_settings(guidance=0.0), negative=negative), away)
  got = said(_settings(guidance=(3.0, 2.0)), negative=negative)
  _close(got, away + 3 * (A - away) + 2 * (10 * B - away))


def test_generate_guides_away_from_an_earlier_checkpoint(said):
  # The velocity is as large as its parameters.
  got = said(_settings(guidance=3.0), weak_params=0.5)
  _close(got, 0.5 * BOTH + 3 * (BOTH - 0.5 * BOTH))
  got = said(_settings(guidance=1.0), weak_params=0.5, scale=np.float32(2.0))
  _close(got, 1.5 * BOTH)


def test_generate_refuses_incompatible_settings(said, caplog):
  with pytest.raises(
    errors.InputError, match="guidance=1,2 with an earlier checkpoint"
  ):
    said(_settings(guidance=(1, 2)), weak_params=0.5)
  with pytest.raises(errors.InputError, match="negative condition and an earlier"):
    said(_settings(guidance=2.0), weak_params=0.5, negative=BATCH)
  for extra, name in (
    ({"negative": BATCH}, "negative"),
    ({"weak_params": 0.5}, "earl"),
  ):
    caplog.clear()
    _close(said(_settings(guidance=1.0), **extra), BOTH)
    assert f"guidance=1 leaves the {name}" in caplog.text


def test_generate_shares_one_program_between_scales(known, said):
  make = generate.make_generate(known[0], _settings(guidance=2.0), (2, 2, 1), said.mesh)
  for scale in (1.0, 2.0, 4.0, 7.0):
    _close(said(make=make, scale=np.float32(scale)), scale * BOTH)
  assert make._cache_size() == 1


@pytest.mark.parametrize(
  ("guidance", "scale"), [(1.5, None), (1.5, 3.0), ((2.0, 3.0), None)]
)
def test_generate_slices_optional_inputs_with_rows(known, guidance, scale, mesh):
  make = generate.make_generate(known[0], _settings(guidance=guidance), (2, 2, 1), mesh)
  rng = np.random.default_rng(0)
  n = 11
  batch = {name: rng.uniform(-5, 5, (n, 1)).astype(np.float32) for name in BATCH}
  negative = {name: np.full((1, 1), 2.0, np.float32) for name in BATCH}

  def run(rows, batch_size, negative):
    return _generator(make, mesh).generate(
      1.0,
      {name: value[rows] for name, value in batch.items()},
      seed=0,
      numbers=rows,
      batch_size=batch_size,
      negative=negative,
      scale=scale,
    )

  whole = run(np.arange(n), n, negative)
  assert np.ptp(whole.astype(int)) > 10
  np.testing.assert_array_equal(run(np.arange(n), 8, negative), whole)
  repeated = {name: np.repeat(value, 3, axis=0) for name, value in negative.items()}
  np.testing.assert_array_equal(run(np.arange(4, 7), 8, repeated), whole[4:7])
  assert make._cache_size() == 2  # Of batches of 16 and of 8 rows.


@pytest.mark.parametrize(
  ("guidance", "weak", "cost"),
  [
    (1.0, False, 4),
    (0.0, False, 4),
    (2.0, False, 8),
    (2.0, True, 8),
    (1.0, True, 4),
    ((3.0, 1.5), False, 12),
    ((1.0, 0.0), False, 4),
  ],
)
def test_evaluations_count_what_is_evaluated(known, guidance, weak, cost):
  settings = _settings(guidance=guidance)
  assert generate.evaluations(settings, 2, weak) == cost
  one = mesh_lib.make_mesh(data=1, num_devices=1)
  make = generate.make_generate(known[0], settings, (2, 2, 1), one)
  extra = {"weak_params": 0.5} if weak else {}
  jax.block_until_ready(
    make(1.0, BATCH, generate.sample_keys(0, np.arange(3)), **extra)
  )
  jax.effects_barrier()
  assert sum(known[1]) == 3 * cost


def test_generate_makes_images_in_range(build, dataset):
  experiment = build()
  recipe = experiment.recipe.with_statistics(dataset.card.statistics)
  run = generate.make_generate(
    recipe.denoiser, recipe.sample, recipe.latent_shape, recipe.mesh
  )
  params = experiment.recipe.init_fn(jax.random.key(0))
  batch = dataset.source("train").batch([0, 1])
  images = np.asarray(run(params, batch, generate.sample_keys(0, np.arange(2))))
  assert images.shape == (2, 32, 32, 1)
  assert np.abs(images).max() <= 1
  assert np.abs(images[0] - images[1]).mean() > 0.01
