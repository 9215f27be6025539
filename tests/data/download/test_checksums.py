"""Checksums against published values."""

import base64

import numpy as np
import pytest

from cxr_diffusion_jax.data.download import checksums


@pytest.mark.parametrize(
  ("content", "expected"),
  [
    # RFC 3720, appendix B.4.
    (bytes(32), 0x8A9136AA),
    (b"\xff" * 32, 0x62A8AB43),
    (bytes(range(32)), 0x46DD794E),
    (b"123456789", 0xE3069283),
    (b"", 0),
  ],
)
def test_crc32c_of_known_bytes(tmp_path, content, expected):
  assert checksums.crc32c(iter([content])) == expected
  path = tmp_path / "file"
  path.write_bytes(content)
  assert base64.b64decode(checksums.crc32c_base64(path)) == expected.to_bytes(4, "big")


@pytest.mark.parametrize("cut", [0, 1, 70_001, 299_999])
def test_crc32c_is_the_same_in_blocks_of_any_size(cut):
  content = np.random.default_rng(0).integers(0, 256, 300_000, np.uint8).tobytes()
  whole = checksums.crc32c(iter([content]))
  assert checksums.crc32c(iter([content[:cut], content[cut:]])) == whole
  # Byte after byte, the definition itself.
  few = content[:500]
  single = checksums.crc32c(iter([few[i : i + 1] for i in range(500)]))
  assert checksums.crc32c(iter([few])) == single


def test_md5(tmp_path):
  path = tmp_path / "file"
  path.write_bytes(b"message digest")
  # RFC 1321, appendix A.5.
  expected = bytes.fromhex("f96b697d7cb7938d525a2f31aaf161d0")
  assert base64.b64decode(checksums.md5_base64(path)) == expected
