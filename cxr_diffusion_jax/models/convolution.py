"""Convolutions of 3x3 and 1x1 as the sums that a CPU computes fastest.

direct    XLA's own, at the rate of matrix products where there are many places
product   a kernel of 1x1 as a product [b h w, c] [c, k]; one of 3x3 as [b h w, 9 c]
          [9 c, k], the nine shifted copies beside each other ("im2col")
winograd  F(2x2, 3x3) of Lavin and Gray 2016 (1509.09308):
          Y = A' [(G w G') * (B' d B)] A for each 4x4 of the input d, 16 products where
          direct has 36
phases    of an image with every pixel repeated 2x2: each of the four pixels of a repeat
          sees 2x2 pixels of the small image, so that 16 products do for 36

All are the same sum in another order: float32 results differ by about 1e-6 of the
largest. On other platforms and in other precisions XLA's own convolution is used.
"""

from collections.abc import Iterator, Sequence
import contextlib
import contextvars
import functools

import jax
from jax import Array
import jax.numpy as jnp
import numpy as np

from cxr_diffusion_jax.models import placement

# Bounds of the places h w of an image and of channels, measured on two cores with
# AVX-512 by tests/benchmarks/convolution.py. The batch has no part in them: an image
# does not depend on the batch that it is in.
_PRODUCT_PLACES, _PRODUCT_CHANNELS = 256, 512
_WINOGRAD_PLACES, _WINOGRAD_CHANNELS = 128 * 128, 256

# Whether all forms are `direct`.
_direct_only: contextvars.ContextVar[bool] = contextvars.ContextVar(
  "direct_only", default=False
)

_NHWC = jax.lax.ConvDimensionNumbers((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2))
_SAME = ((1, 1), (1, 1))

# B', G and A' of F(2x2, 3x3).
_INPUT = np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]])
_KERNEL = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
_OUTPUT = np.array([[1, 1, 1, 0], [0, 1, -1, -1]])


def conv_general_dilated(
  x: Array,
  kernel: Array,
  window_strides: Sequence[int],
  padding: str | Sequence[tuple[int, int]],
  **options,
) -> Array:
  """`jax.lax.conv_general_dilated` of NHWC, HWIO; a field of `nn.Conv`."""
  plain = set(window_strides) == {1} and options.get("feature_group_count", 1) == 1
  for name in ("lhs_dilation", "rhs_dilation"):
    plain &= set(options.get(name) or (1,)) == {1}
  same = padding == "SAME" if isinstance(padding, str) else _is_same(kernel, padding)
  plain &= same
  if plain and x.ndim == 4:
    form = choose(x.shape, kernel.shape, x.dtype)
    if form != "direct":
      return _FORMS[form](x, kernel)
  return jax.lax.conv_general_dilated(x, kernel, window_strides, padding, **options)


def _is_same(kernel: Array, padding: Sequence[tuple[int, int]]) -> bool:
  return kernel.shape[0] == 3 and tuple(map(tuple, padding)) == _SAME


def conv_of_repeated(x: Array, kernel: Array, strides, padding, **options) -> Array:
  """The same for x with every pixel repeated 2x2, and a kernel of 3x3."""
  del strides, padding, options
  b, h, w, c = x.shape
  form = choose((b, 2 * h, 2 * w, c), kernel.shape, x.dtype)
  if on_cpu() and x.dtype == jnp.float32 and form != "product":
    return phases(x, kernel)
  repeated = jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)
  return product(repeated, kernel) if form == "product" else direct(repeated, kernel)


def choose(shape: Sequence[int], kernel_shape: Sequence[int], dtype: jnp.dtype) -> str:
  """The form for x [b h w c], a kernel [3 3 c k] or [1 1 c k], padded with zeros."""
  _, h, w, _ = shape
  side, channels = kernel_shape[0], min(kernel_shape[2:])
  if not on_cpu() or dtype != jnp.float32 or kernel_shape[1] != side:
    return "direct"
  if side == 1:
    return "product"
  if side != 3:
    return "direct"
  if h * w <= _PRODUCT_PLACES and channels >= _PRODUCT_CHANNELS:
    return "product"
  wide = channels >= _WINOGRAD_CHANNELS and h * w >= _WINOGRAD_PLACES
  return "winograd" if wide and h % 2 == 0 and w % 2 == 0 else "direct"


@contextlib.contextmanager
def direct_only() -> Iterator[None]:
  """Traces convolutions as they are on other platforms, to count their products."""
  token = _direct_only.set(True)
  try:
    yield
  finally:
    _direct_only.reset(token)


def on_cpu() -> bool:
  """Whether the program being traced is for CPUs, and may have any form."""
  return (
    not _direct_only.get() and (placement.platform() or jax.default_backend()) == "cpu"
  )


def direct(x: Array, kernel: Array) -> Array:
  """x [b h w c], kernel [3 3 c k] or [1 1 c k] -> [b h w k]."""
  return jax.lax.conv_general_dilated(
    x, kernel, (1, 1), "SAME", dimension_numbers=_NHWC
  )


def product(x: Array, kernel: Array) -> Array:
  """`direct` as one matrix product. Keeps no copies for the gradient."""
  return _columns_product(x, kernel) if kernel.shape[0] == 3 else x @ kernel[0, 0]


@functools.partial(jax.checkpoint, prevent_cse=False)
def _columns_product(x: Array, kernel: Array) -> Array:
  b, h, w, c = x.shape
  padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
  columns = jnp.concatenate(
    [padded[:, i : i + h, j : j + w] for i in range(3) for j in range(3)], axis=-1
  )
  y = columns.reshape(b * h * w, 9 * c) @ kernel.reshape(9 * c, -1)
  return y.reshape(b, h, w, -1)


@jax.custom_vjp
def winograd(x: Array, kernel: Array) -> Array:
  """`direct` for kernels of 3x3 and even sides h and w. Its gradient is `direct`'s."""
  b, h, w, c = x.shape
  k, rows = kernel.shape[-1], h // _strips(x.shape)
  padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
  matrices = jnp.einsum("ai,bj,ijck->abck", _KERNEL, _KERNEL, kernel)
  matrices = matrices.reshape(16, c, k)
  parts = []
  for first in range(0, h, rows):
    strip = padded[:, first : first + rows + 2]
    tiles = jnp.stack(_input_tiles(strip)).reshape(16, -1, c)
    sums = jnp.einsum("spc,sck->spk", tiles, matrices)
    parts.append(_output(sums.reshape(4, 4, b, rows // 2, w // 2, k)))
  return jnp.concatenate(parts, axis=1)


def _strips(shape: Sequence[int]) -> int:
  """How many strips of rows, which bound the memory of tiles, 4 times the input.

  Few, because each is compiled: 32 would take 20 times as long as 1.
  """
  b, h, w, c = shape
  strips = 1
  while strips < 4 and (h // strips) % 4 == 0 and 4 * b * h * w * c > strips * 2**23:
    strips *= 2
  return strips


def _input_tiles(strip: Array) -> list[Array]:
  """B' d B of [b rows+2 w+2 c]: 16 of [b rows/2 w/2 c]."""
  tiles = []
  for row in _every_second(strip, 1, _INPUT):
    tiles += _every_second(row, 2, _INPUT)
  return tiles


def _every_second(x: Array, axis: int, matrix: np.ndarray) -> list[Array]:
  """The matrix times each four neighbours along an axis, two places apart."""
  last = x.shape[axis] - 2
  parts = [
    jax.lax.slice_in_dim(x, i, i + last - 1, 2, axis) for i in range(matrix.shape[1])
  ]
  return [_weighted(row, parts) for row in matrix]


def _output(sums: Array) -> Array:
  """A' m A of [4 4 b rows/2 w/2 k] -> [b rows w k]."""
  rows = [_weighted(row, list(sums)) for row in _OUTPUT]
  places = [[_weighted(column, list(row)) for column in _OUTPUT] for row in rows]
  y = jnp.stack([jnp.stack(row, axis=3) for row in places], axis=2)
  b, h, _, w, _, k = y.shape
  return y.reshape(b, 2 * h, 2 * w, k)


def _weighted(weights: np.ndarray, parts: Sequence[Array]) -> Array:
  """The sum of the parts with weights 1, -1 and 0."""
  terms = [(int(one), part) for one, part in zip(weights, parts, strict=True) if one]
  terms.sort(key=lambda term: -term[0])
  total = terms[0][1]
  for one, part in terms[1:]:
    total = total + part if one > 0 else total - part
  return total


def _winograd_forward(x, kernel):
  return winograd(x, kernel), (x, kernel)


def _winograd_backward(inputs, gradient):
  return jax.vjp(direct, *inputs)[1](gradient)


winograd.defvjp(_winograd_forward, _winograd_backward)


def phases(x: Array, kernel: Array) -> Array:
  """`direct` of x [b h w c] with every pixel repeated 2x2 -> [b 2h 2w k], as phases."""
  rows = []
  for a, above in enumerate((_first(kernel, 0), _second(kernel, 0))):
    row = []
    for e, phase in enumerate((_first(above, 1), _second(above, 1))):
      padding = ((1 - a, a), (1 - e, e))
      row.append(
        jax.lax.conv_general_dilated(x, phase, (1, 1), padding, dimension_numbers=_NHWC)
      )
    rows.append(jnp.stack(row, axis=3))
  y = jnp.stack(rows, axis=2)
  b, h, _, w, _, k = y.shape
  return y.reshape(b, 2 * h, 2 * w, k)


def _first(kernel: Array, axis: int) -> Array:
  """What the first pixel of a repeat sees along an axis: the one before, and itself."""
  one, two, three = jnp.split(kernel, 3, axis)
  return jnp.concatenate([one, two + three], axis)


def _second(kernel: Array, axis: int) -> Array:
  one, two, three = jnp.split(kernel, 3, axis)
  return jnp.concatenate([one + two, three], axis)


_FORMS = {"product": product, "winograd": winograd}
