"""Plain HTTP(S) downloads that resume after an interruption.

GET (Range from PATH.part's end) -> PATH.part -> size and checksum -> PATH

PATH appears completely or not at all. The server's metadata is kept beside the part, so
that a part is never continued with bytes of another version.
"""

import base64
from collections.abc import Callable, Iterator
import dataclasses
import hashlib
import http.client
import json
import os
import pathlib
import re
import ssl
import time
import urllib.error
import urllib.request

from cxr_diffusion_jax import artifacts, errors
from cxr_diffusion_jax.progress import Progress, no_progress

_CHUNK_BYTES = 1 << 20
_MAX_FAILURES = 6
_MAX_PAUSE = 60.0
_TIMEOUT = 60.0
_PASSING_STATUS = (408, 425, 429, 500, 502, 503, 504)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Remote:
  """What the server says of a file; empty or None where it does not."""

  size: int | None = None
  etag: str = ""
  md5: str = ""
  crc32c: str = ""


class _PassingError(Exception):
  """A temporary failure, worth retrying."""


def fetch(
  url: str,
  path: str | os.PathLike,
  *,
  progress: Progress = no_progress,
  sleep: Callable[[float], None] = time.sleep,
) -> pathlib.Path:
  """Downloads one file; does nothing where it is there already.

  A failure that may pass is tried again after 1, 2, 4, ... seconds, until six in a row
  brought not one byte more.

  Args:
    url: http or https; certificates are verified.
    progress: called with bytes and size (0 where the server does not say).

  Raises:
    InputError: the server refuses, the network stays away, or the file that came has
      another size or checksum than announced, twice.
  """
  path = pathlib.Path(path)
  if not url.startswith(("https://", "http://")):
    raise errors.InputError(f"{url!r} is no address", "http:// or https://")
  if path.is_file():
    return path
  path.parent.mkdir(parents=True, exist_ok=True)
  part = path.with_name(path.name + ".part")
  failures = num_corrupt = 0
  while True:
    before = _size(part)
    try:
      remote = _receive(url, part, progress)
      damage = _damage(part, remote)
    except _PassingError as error:
      failures = 1 if _size(part) > before else failures + 1
      if failures >= _MAX_FAILURES:
        raise errors.InputError(
          f"{url} could not be fetched: {error}; {_size(part)} bytes are there",
          fix="check the network and run the same command again, it resumes",
        ) from error
      sleep(min(_MAX_PAUSE, 2.0 ** (failures - 1)))
      continue
    if not damage:
      break
    num_corrupt += 1
    _discard(part)
    if num_corrupt == 2:
      raise errors.InputError(f"{url} came twice with {damage}", fix="try again later")
  os.replace(part, path)
  _discard(part)
  return path


def _receive(url: str, part: pathlib.Path, progress: Progress) -> _Remote:
  """One try: continues `part` to its end, or raises _PassingError."""
  saved = _load_remote(part)
  offset = 0 if saved is None else _size(part)
  known = saved or _Remote()
  response = _open(url, part, offset, known)
  if response is None:
    return known
  with response:
    content_range = response.headers.get("Content-Range", "")
    span = re.match(r"bytes (\d+)-\d+/(\d+|\*)", content_range)
    continues = response.status == 206 and span and int(span[1]) == offset
    if response.status == 206 and not continues:
      _discard(part)
      raise _PassingError(f"asked from byte {offset}, the server sent another part")
    remote = _remote_of(response, offset if continues else 0)
    if continues:
      answered = {name: value for name, value in vars(remote).items() if value}
      remote = dataclasses.replace(known, **answered)
    _save(part, response, offset if continues else 0, remote, progress)
  size = _size(part)
  if remote.size is not None and size < remote.size:
    raise _PassingError(f"cut off after {size} of {remote.size} bytes")
  return remote


def _open(
  url: str, part: pathlib.Path, offset: int, known: _Remote
) -> http.client.HTTPResponse | None:
  """Asks for the file from `offset` on; None when there is nothing beyond."""
  request = urllib.request.Request(url)
  if offset:
    request.add_header("Range", f"bytes={offset}-")
    # A weak ETag may not be used here (RFC 9110, 13.1.5).
    if known.etag and not known.etag.startswith("W/"):
      request.add_header("If-Range", known.etag)
  try:
    return urllib.request.urlopen(request, timeout=_TIMEOUT)
  except urllib.error.HTTPError as error:
    error.close()
    if error.code == 416:
      if known.size == offset:
        return None
      _discard(part)
      raise _PassingError("what was there is longer than the file") from error
    if error.code in _PASSING_STATUS:
      raise _PassingError(f"HTTP {error.code} {error.reason}") from error
    raise errors.InputError(
      f"{url}: HTTP {error.code} {error.reason}",
      fix="check the address, and whether the file asks for a login or for terms",
    ) from error
  except urllib.error.URLError as error:
    if isinstance(error.reason, ssl.SSLCertVerificationError):
      raise errors.InputError(
        f"{url}: {error.reason}", "a certificate that can be verified"
      ) from error
    raise _PassingError(str(error.reason)) from error
  except (OSError, http.client.HTTPException) as error:
    raise _PassingError(str(error) or type(error).__name__) from error


def _save(
  part: pathlib.Path,
  response: http.client.HTTPResponse,
  offset: int,
  remote: _Remote,
  progress: Progress,
) -> None:
  """Appends the body to `part` from `offset` on."""
  label = part.name.removesuffix(".part")
  try:
    with open(part, "r+b" if offset else "wb") as file:
      file.seek(offset)
      artifacts.write_text(_about(part), json.dumps(dataclasses.asdict(remote)))
      progress(label, offset, remote.size or 0)
      for chunk in _chunks(response):
        file.write(chunk)
        offset += len(chunk)
        progress(label, offset, remote.size or 0)
      file.truncate()
      file.flush()
      os.fsync(file.fileno())
  except OSError as error:
    raise errors.InputError(
      f"{part}: {error.strerror or error}",
      fix="free disk or change its rights, then run the same command again",
    ) from error


def _chunks(response: http.client.HTTPResponse) -> Iterator[bytes]:
  """The body; a broken connection is a _PassingError, unlike a full disk."""
  while True:
    try:
      chunk = response.read(_CHUNK_BYTES)
    except (OSError, http.client.HTTPException) as error:
      raise _PassingError(str(error) or type(error).__name__) from error
    if not chunk:
      return
    yield chunk


def _remote_of(response: http.client.HTTPResponse, offset: int) -> _Remote:
  """Reads the headers of a response that starts at byte `offset`."""
  headers = response.headers
  hashes = dict(
    item.strip().split("=", 1)
    for line in headers.get_all("x-goog-hash", [])
    for item in line.split(",")
    if "=" in item
  )
  # Stored compressed and sent plain: the hash is of what is stored.
  if headers.get("x-goog-stored-content-encoding", "identity") != "identity":
    hashes = {}
  return _Remote(
    size=None if response.length is None else offset + response.length,
    etag=headers.get("ETag", ""),
    md5=hashes.get("md5", ""),
    crc32c=hashes.get("crc32c", ""),
  )


def checksum(path: pathlib.Path, name: str) -> str:
  """The MD5 or CRC32C of a file in base64, as the header `x-goog-hash` gives it."""
  import google_crc32c

  hasher = hashlib.md5() if name == "MD5" else google_crc32c.Checksum()
  with open(path, "rb") as file:
    while block := file.read(_CHUNK_BYTES):
      hasher.update(block)
  return base64.b64encode(hasher.digest()).decode()


def _damage(part: pathlib.Path, remote: _Remote) -> str:
  """What is wrong with a whole `part`; empty when nothing is."""
  if remote.size is not None and _size(part) != remote.size:
    return f"{_size(part)} bytes, {remote.size} were announced"
  for name, wanted in (("MD5", remote.md5), ("CRC32C", remote.crc32c)):
    if wanted:
      got = checksum(part, name)
      return "" if got == wanted else f"{name} {got}, {wanted} was announced"
  return ""


def _about(part: pathlib.Path) -> pathlib.Path:
  return part.with_name(part.name + ".json")


def _load_remote(part: pathlib.Path) -> _Remote | None:
  """What was known of the file that `part` is of; None when nothing can be."""
  try:
    return _Remote(**json.loads(_about(part).read_text(encoding="utf-8")))
  except (FileNotFoundError, ValueError, TypeError):
    return None


def _discard(part: pathlib.Path) -> None:
  part.unlink(missing_ok=True)
  _about(part).unlink(missing_ok=True)


def _size(path: pathlib.Path) -> int:
  return path.stat().st_size if path.is_file() else 0
