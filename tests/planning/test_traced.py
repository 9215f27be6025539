"""Estimates of traced programs equal counts by hand."""

import jax
from jax import lax
import jax.numpy as jnp
import pytest

from cxr_diffusion_jax.planning import traced

A = jax.ShapeDtypeStruct((64, 64), jnp.float32)
BYTES = 64 * 64 * 4


def _estimate(function, *arguments, **options):
  return traced.estimate(jax.make_jaxpr(function)(*arguments), **options)


def test_elementwise_values_are_not_stored():
  result = _estimate(lambda a, b: (2 * a + b) * b, A, A)
  assert result.temporaries == BYTES  # the result
  assert result.traffic == 3 * BYTES
  assert result.flops == 0


def test_products_read_their_operands_and_store_their_result():
  result = _estimate(lambda a, b: jnp.sin(a) @ b, A, A)
  assert result.flops == 2 * 64**3
  # The sine is computed where it is read.
  assert result.temporaries == BYTES
  assert result.traffic == 3 * BYTES


def test_values_live_until_their_last_reader():
  result = _estimate(lambda a: ((a @ a) @ a) @ (a @ a), A)
  # Two factors and their product at once.
  assert result.temporaries == 3 * BYTES


def test_donated_outputs_take_no_memory():
  assert _estimate(lambda a: a + 1, A, donated=True).temporaries == 0


def test_casts_into_products_are_not_stored():
  result = _estimate(
    lambda a, b: a.astype(jnp.bfloat16) @ b, A, A.update(dtype="bfloat16")
  )
  assert result.temporaries == BYTES / 2


def test_loops_count_every_round_and_their_memory_once():
  def power(a):
    return lax.scan(lambda x, _: ((x @ a) @ a, None), a, length=5)[0]

  result = _estimate(power, A)
  assert result.flops == 5 * 2 * 2 * 64**3
  assert result.temporaries == 3 * BYTES  # the result, and two products of a round
  # A small loop runs on the chip.
  assert result.traffic == 2 * BYTES
  large = jax.ShapeDtypeStruct((2048, 2048), jnp.float32)
  assert _estimate(power, large).traffic == 5 * 2 * 3 * 2048**2 * 4


def test_calls_are_followed_and_rematerialised_values_are_not_kept():
  def loss(a, remat):
    def block(x):
      return jnp.sin(x @ a) @ a

    block = jax.checkpoint(block) if remat else jax.jit(block)
    for _ in range(6):
      a = block(a)
    return a.sum()

  kept, remade = (_estimate(jax.grad(lambda a, r=r: loss(a, r)), A) for r in (0, 1))
  assert remade.temporaries < kept.temporaries
  assert remade.flops > kept.flops


def test_share_scales_arrays_of_a_shape():
  result = _estimate(lambda a: a @ a, A, share=lambda shape: 1 / 4)
  assert result.temporaries == BYTES / 4


def test_part_scales_products():
  def power(a):
    return lax.scan(lambda x, _: (x @ a, None), a @ a, length=3)[0]

  assert _estimate(power, A, part=lambda product: 1 / 4).flops == 4 * 2 * 64**3 / 4


def test_branches_count_the_larger_one():
  def choose(flag, a):
    return lax.cond(flag, lambda a: a @ a @ a, lambda a: a @ a, a)

  result = _estimate(choose, jax.ShapeDtypeStruct((), bool), A)
  assert result.flops == pytest.approx(2 * 2 * 64**3)
