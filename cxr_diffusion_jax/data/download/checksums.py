"""MD5 and CRC32C of files, as Google Cloud Storage's `x-goog-hash` header gives them.

CRC32C is the remainder modulo the polynomial 0x1EDC6F41 (RFC 3720, appendix B.4), bits
reflected. It is linear: raw(a + b) = raw(a) * x^(8 |b|) + raw(b) over GF(2). So numpy
works through many lanes of a block side by side and then folds them pairwise.
"""

import base64
from collections.abc import Iterator
import hashlib
import pathlib

import numpy as np

_LANES = 1 << 14
_LANE_BYTES = 1 << 10


def md5_base64(path: pathlib.Path) -> str:
  """The MD5 of a file in base64."""
  with open(path, "rb") as file:
    return base64.b64encode(hashlib.file_digest(file, "md5").digest()).decode()


def crc32c_base64(path: pathlib.Path) -> str:
  """The CRC32C of a file, four bytes big-endian, in base64."""
  with open(path, "rb") as file:
    blocks = iter(lambda: file.read(_LANES * _LANE_BYTES), b"")
    return base64.b64encode(crc32c(blocks).to_bytes(4, "big")).decode()


def crc32c(blocks: Iterator[bytes]) -> int:
  """The CRC32C of bytes that come in blocks."""
  table = _byte_table()
  state = np.array([0xFFFFFFFF], np.uint32)
  for block in blocks:
    lanes = _LANES if len(block) >= _LANES else 1
    width = -(-len(block) // lanes)
    # Zeros in front do not change a remainder.
    padded = np.zeros(lanes * width, np.uint8)
    padded[lanes * width - len(block) :] = np.frombuffer(block, np.uint8)
    remainders = _fold(_raw(padded.reshape(lanes, width), table), width, table)
    state = _shift(state, len(block), table) ^ remainders
  return int(state[0]) ^ 0xFFFFFFFF


def _byte_table() -> np.ndarray:
  """The remainder of each byte: uint32 [256]."""
  table = np.arange(256, dtype=np.uint32)
  for _ in range(8):
    table = (table >> 1) ^ np.where(table & 1, np.uint32(0x82F63B78), np.uint32(0))
  return table


def _raw(lanes: np.ndarray, table: np.ndarray) -> np.ndarray:
  """The remainder of every row of uint8 [n m]: uint32 [n]."""
  state = np.zeros(len(lanes), np.uint32)
  for column in np.ascontiguousarray(lanes.T):
    state = table[(state ^ column) & 0xFF] ^ (state >> 8)
  return state


def _fold(remainders: np.ndarray, width: int, table: np.ndarray) -> np.ndarray:
  """The remainder of 2^k lanes of `width` bytes laid end to end: uint32 [1]."""
  while len(remainders) > 1:
    remainders = _shift(remainders[0::2], width, table) ^ remainders[1::2]
    width *= 2
  return remainders


def _shift(remainders: np.ndarray, num_bytes: int, table: np.ndarray) -> np.ndarray:
  """Remainders after `num_bytes` more zero bytes, by squaring the one-byte step."""
  basis = np.uint32(1) << np.arange(32, dtype=np.uint32)
  step = table[basis & 0xFF] ^ (basis >> 8)
  while num_bytes:
    if num_bytes & 1:
      remainders = _multiply(step, remainders)
    step = _multiply(step, step)
    num_bytes >>= 1
  return remainders


def _multiply(matrix: np.ndarray, vectors: np.ndarray) -> np.ndarray:
  """A GF(2) matrix, its columns uint32 [32], times vectors uint32 [n]."""
  product = np.zeros_like(vectors)
  for bit in range(32):
    product ^= np.where(vectors >> bit & 1, matrix[bit], np.uint32(0))
  return product
