"""Images of a known denoiser: guidance, batches, keys and grey levels."""

import jax
import numpy as np
import pytest

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.parallel import mesh as mesh_lib
from cxr_diffusion_jax.training import generate


@pytest.fixture(scope="module")
def mesh() -> jax.sharding.Mesh:
  return mesh_lib.make_mesh(data=-1)


def _mean_of_noise(params, batch, keys):
  """Stands for a compiled generator: of the condition and of the key alone."""
  noise = jax.vmap(lambda key: jax.random.uniform(key, (2, 2, 1), minval=-1))(keys)
  return params * noise + batch["shift"].reshape(-1, 1, 1, 1)


def _rows(mesh, numbers, batch_size, told=None):
  conditions = {"shift": np.linspace(-0.1, 0.1, 20, dtype=np.float32)[numbers]}
  return generate.generate_rows(
    _mean_of_noise,
    0.5,
    conditions,
    generate.sample_keys(3, np.asarray(numbers)),
    mesh,
    batch_size=batch_size,
    progress=lambda label, done, total: told is not None and told.append((done, total)),
  )


@pytest.mark.parametrize("batch_size", [1, 8, 12, 64])
def test_rows_do_not_depend_on_their_batch(batch_size, mesh):
  told = []
  numbers = np.arange(20)
  made = _rows(mesh, numbers, batch_size, told)
  assert made.shape == (20, 2, 2, 1)
  assert made.dtype == np.uint8
  np.testing.assert_array_equal(made, _rows(mesh, numbers, 20))
  np.testing.assert_array_equal(made[5:7], _rows(mesh, numbers[5:7], batch_size))
  assert told[-1] == (20, 20)
  assert len(np.unique(made, axis=0)) == 20


def test_keys_are_of_seed_and_number(mesh):
  keys = jax.random.key_data(generate.sample_keys(0, np.arange(4)))
  again = jax.random.key_data(generate.sample_keys(0, np.array([2])))
  np.testing.assert_array_equal(keys[2], again[0])
  other = jax.random.key_data(generate.sample_keys(1, np.arange(4)))
  assert len(np.unique(np.concatenate([keys, other]), axis=0)) == 8


def test_grey_levels_cover_the_range_and_end_there():
  grey = generate.to_uint8(np.array([-2, -1, 0, 1 - 1 / 255, 1, 3], np.float32))
  np.testing.assert_array_equal(grey, [0, 0, 128, 254, 255, 255])
  levels = np.arange(256, dtype=np.uint8)
  np.testing.assert_array_equal(generate.to_uint8(levels / 127.5 - 1), levels)


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"sampler": "heun"}, "unknown sampler 'heun'"),
    ({"num_steps": 0}, "config.sample.num_steps=0; expected 1 or more"),
    ({"num_images": 0}, "config.sample.num_images=0; expected 1 or more"),
  ],
)
def test_settings_that_cannot_be_are_refused(changes, message):
  with pytest.raises(errors.InputError, match=message):
    generate.SampleSettings(**changes)


def test_a_whole_generator_makes_images_in_range(build, dataset):
  experiment = build()
  objective = experiment.make_objective(
    experiment.make_codec(dataset.description["statistics"])
  )
  run = generate.make_generate(
    objective, experiment.sample, experiment.latent_shape, experiment.mesh
  )
  params = experiment.init_fn(jax.random.key(0))
  batch = dataset.source("train").batch([0, 1])
  images = np.asarray(run(params, batch, generate.sample_keys(0, np.arange(2))))
  assert images.shape == (2, 32, 32, 1)
  assert np.abs(images).max() <= 1
  assert np.abs(images[0] - images[1]).mean() > 0.01
