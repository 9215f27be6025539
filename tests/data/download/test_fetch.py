"""Plain downloads against a local server that cuts off, lies and refuses."""

import base64
import hashlib
import http.server
import os
import pathlib
import threading

import numpy as np
import pytest

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.data.download import fetch

CONTENT = np.random.default_rng(0).integers(0, 256, 300_000, np.uint8).tobytes()


class Server:
  """Files by path, and what goes wrong with them.

  Attributes:
    files: path -> content.
    cut_after: bytes of a body after which the connection is closed, one a request.
    statuses: what is answered instead, one a request.
    headers: sent with every file.
    requests: (path, Range header) as they came.
  """

  def __init__(self):
    self.files: dict[str, bytes] = {}
    self.cut_after: list[int] = []
    self.statuses: list[int] = []
    self.headers: dict[str, str] = {}
    self.with_range = True
    self.with_length = True
    self.requests: list[tuple[str, str | None]] = []
    self.url = ""

  def answer(self, request: http.server.BaseHTTPRequestHandler) -> None:
    span = request.headers["Range"]
    self.requests.append((request.path, span))
    status = self.statuses.pop(0) if self.statuses else 200
    content = self.files.get(request.path)
    if content is None or status != 200:
      request.send_error(404 if content is None else status)
      return
    start, etag = 0, f'"{hashlib.md5(content).hexdigest()}"'
    if span and self.with_range and request.headers["If-Range"] in (None, etag):
      start = int(span.removeprefix("bytes=").removesuffix("-"))
    if start >= len(content) > 0:
      request.send_error(416)
      return
    request.send_response(206 if start else 200)
    if start:
      total = len(content)
      request.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
    if self.with_length:
      request.send_header("Content-Length", str(len(content) - start))
    request.send_header("ETag", etag)
    for name, value in self.headers.items():
      request.send_header(name, value)
    request.end_headers()
    body = content[start:]
    request.wfile.write(body[: self.cut_after.pop(0)] if self.cut_after else body)


@pytest.fixture
def server():
  """A server on this machine."""
  state = Server()

  class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
      state.answer(self)

    def log_message(self, *arguments):
      pass

  with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
    thread = threading.Thread(target=running.serve_forever, args=(0.01,))
    thread.start()
    state.url = f"http://127.0.0.1:{running.server_port}"
    state.files["/data/a.bin"] = CONTENT
    yield state
    running.shutdown()
    thread.join()


def get(server, folder, pauses=None, **options):
  pauses = [] if pauses is None else pauses
  url = f"{server.url}/data/a.bin"
  return fetch.fetch(url, folder / "a.bin", sleep=pauses.append, **options)


def md5_of(content: bytes) -> str:
  return base64.b64encode(hashlib.md5(content).digest()).decode()


def test_fetch_gets_a_file_whole_and_once(server, tmp_path):
  messages = []
  path = get(server, tmp_path / "new", progress=lambda *state: messages.append(state))
  assert path.read_bytes() == CONTENT
  assert messages[0] == ("a.bin", 0, len(CONTENT))
  assert messages[-1] == ("a.bin", len(CONTENT), len(CONTENT))
  assert os.listdir(path.parent) == ["a.bin"]
  get(server, tmp_path / "new")
  assert server.requests == [("/data/a.bin", None)]


def test_fetch_resumes_a_cut_transfer(server, tmp_path):
  server.cut_after = [100_000, 50_000]
  pauses = []
  assert get(server, tmp_path, pauses).read_bytes() == CONTENT
  spans = [span for _, span in server.requests]
  assert spans == [None, "bytes=100000-", "bytes=150000-"]
  assert pauses == [1.0, 1.0]


def test_fetch_resumes_in_another_run(server, tmp_path):
  server.cut_after = [200_000] + [0] * 20
  with pytest.raises(errors.InputError, match=r"200000 of 300000 bytes.*same command"):
    get(server, tmp_path)
  assert sorted(os.listdir(tmp_path)) == ["a.bin.part", "a.bin.part.json"]
  server.cut_after = []
  server.requests.clear()
  assert get(server, tmp_path).read_bytes() == CONTENT
  assert server.requests == [("/data/a.bin", "bytes=200000-")]
  assert os.listdir(tmp_path) == ["a.bin"]


def test_fetch_restarts_for_another_version(server, tmp_path):
  server.cut_after = [200_000] + [0] * 20
  with pytest.raises(errors.InputError):
    get(server, tmp_path)
  server.cut_after = []
  newer = server.files["/data/a.bin"] = CONTENT[::-1]
  assert get(server, tmp_path).read_bytes() == newer


def test_fetch_restarts_without_range_support(server, tmp_path):
  server.with_range = False
  server.cut_after = [100_000]
  assert get(server, tmp_path).read_bytes() == CONTENT


def test_fetch_keeps_a_complete_part(server, tmp_path):
  server.cut_after = [200_000] + [0] * 20
  with pytest.raises(errors.InputError):
    get(server, tmp_path)
  server.cut_after = []
  (tmp_path / "a.bin.part").write_bytes(CONTENT)
  assert get(server, tmp_path).read_bytes() == CONTENT
  (tmp_path / "a.bin").unlink()
  (tmp_path / "a.bin.part").write_bytes(CONTENT + b"more")
  (tmp_path / "a.bin.part.json").write_text("{}", encoding="utf-8")
  assert get(server, tmp_path).read_bytes() == CONTENT


def test_fetch_waits_longer_between_retries(server, tmp_path):
  server.statuses = [503, 429, 500, 503]
  pauses = []
  assert get(server, tmp_path, pauses).read_bytes() == CONTENT
  assert pauses == [1.0, 2.0, 4.0, 8.0]
  server.statuses = [503] * 9
  (tmp_path / "a.bin").unlink()
  with pytest.raises(errors.InputError, match="HTTP 503"):
    get(server, tmp_path)


@pytest.mark.parametrize("status", [401, 403, 404])
def test_fetch_reports_a_refusal_at_once(server, tmp_path, status):
  server.statuses = [status]
  with pytest.raises(errors.InputError, match=rf"a\.bin: HTTP {status} .*fix:"):
    get(server, tmp_path)
  assert len(server.requests) == 1
  assert os.listdir(tmp_path) == []


def test_fetch_reports_an_unreachable_server(tmp_path):
  pauses = []
  with pytest.raises(errors.InputError, match=r"could not be fetched: .*refused"):
    fetch.fetch("http://127.0.0.1:9/a", tmp_path / "a", sleep=pauses.append)
  assert pauses == [1.0, 2.0, 4.0, 8.0, 16.0]
  with pytest.raises(errors.InputError, match=r"'file:///etc/passwd' is no address"):
    fetch.fetch("file:///etc/passwd", tmp_path / "a")


def test_fetch_compares_checksums(server, tmp_path):
  right = fetch.checksum(write(tmp_path / "copy", CONTENT), "CRC32C")
  server.headers = {"x-goog-hash": f"crc32c={right},md5={md5_of(CONTENT)}"}
  server.cut_after = [1000]
  assert get(server, tmp_path).read_bytes() == CONTENT
  (tmp_path / "a.bin").unlink()
  for wrong in (f"crc32c={right}, md5={md5_of(b'')}", "crc32c=AAAAAA=="):
    server.headers = {"x-goog-hash": wrong}
    server.requests.clear()
    with pytest.raises(errors.InputError, match=r"came twice with (MD5|CRC32C) .*=="):
      get(server, tmp_path)
    assert len(server.requests) == 2
    assert os.listdir(tmp_path) == ["copy"]
  # Stored compressed: the hash is not of what is sent.
  server.headers["x-goog-stored-content-encoding"] = "gzip"
  assert get(server, tmp_path).read_bytes() == CONTENT


def test_fetch_accepts_a_file_without_a_size(server, tmp_path):
  server.with_length = False
  server.headers = {"x-goog-hash": f"md5={md5_of(CONTENT)}"}
  server.cut_after = [5000]
  # Only the checksum can tell that the first answer was cut off.
  assert get(server, tmp_path).read_bytes() == CONTENT


def write(path: pathlib.Path, content: bytes) -> pathlib.Path:
  path.write_bytes(content)
  return path


@pytest.mark.parametrize(
  ("name", "content", "expected"),
  [
    # RFC 3720, appendix B.4, and RFC 1321, appendix A.5.
    ("CRC32C", bytes(32), "8a9136aa"),
    ("CRC32C", b"", "00000000"),
    ("MD5", b"message digest", "f96b697d7cb7938d525a2f31aaf161d0"),
  ],
)
def test_checksum_of_known_bytes(tmp_path, name, content, expected):
  path = write(tmp_path / "file", content)
  assert base64.b64decode(fetch.checksum(path, name)).hex() == expected
