"""A run that is written to, resumed in and sampled from a bucket.

The bucket is an emulator of Google Cloud Storage on this machine's loopback; JAX's
checkpoints, the small files and TensorBoard's events go there by their own clients.
"""

from collections.abc import Iterator
import contextlib
import http.server
import socket
import subprocess
import sys
import threading

from etils import epath
import fsspec
import pytest

RUN = "gs://bucket/runs/a"

# Lists a folder, adds a file by another client, as TensorStore does, and lists again.
LISTS = """
from etils import epath
import requests, os
from cxr_diffusion_jax.cli import command

def main():
  folder = epath.Path("gs://bucket/folder")
  (folder / "a").write_text("a")
  print([path.name for path in folder.iterdir()])
  place = os.environ["STORAGE_EMULATOR_HOST"] + "/upload/storage/v1/b/bucket/o"
  query = {"uploadType": "media", "name": "folder/b"}
  requests.post(place, params=query, data=b"b", timeout=60).raise_for_status()
  print([path.name for path in folder.iterdir()])

command.run(main)
"""


@pytest.fixture
def emulator(monkeypatch) -> Iterator[None]:
  """Emulates a bucket `gs://bucket` for all clients of this process."""
  server_lib = pytest.importorskip("gcp_storage_emulator.server")
  from gcp_storage_emulator.exceptions import NotFound
  from gcp_storage_emulator.handlers import objects

  download = objects.download

  def download_with_generation(request, response, storage, *args, **kwargs):
    # The real store states it, and TensorStore requires it.
    with contextlib.suppress(NotFound):
      entry = storage.get_file_obj(
        request.params["bucket_name"], request.params["object_id"]
      )
      response["x-goog-generation"] = entry["generation"]
    download(request, response, storage, *args, **kwargs)

  monkeypatch.setattr(objects, "download", download_with_generation)
  for _, methods in server_lib.HANDLERS:
    for method, function in methods.items():
      if function is download:
        monkeypatch.setitem(methods, method, download_with_generation)
  with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
  server = server_lib.create_server(
    "127.0.0.1", port, in_memory=True, default_bucket="bucket"
  )
  server.start()
  address = f"http://127.0.0.1:{port}"
  monkeypatch.setenv("STORAGE_EMULATOR_HOST", address)
  # As commands do by a variable, which fsspec reads when it is imported.
  monkeypatch.setitem(fsspec.config.conf, "gcs", {"use_listings_cache": False})
  monkeypatch.setenv("TENSORSTORE_GCS_HTTP_URL", address)
  epath.backend.fsspec_backend._get_filesystem.cache_clear()
  yield
  server.stop()
  epath.backend.fsspec_backend._get_filesystem.cache_clear()


def test_bucket_run_is_trained_resumed_and_sampled(
  small_dit, repository, emulator, run_main, tmp_path
):
  def run(name: str, *arguments: str) -> str:
    result = run_main(name, *arguments)
    assert result.code == 0, result.err[-3000:]
    return result.out + result.err

  steps = {"train__checkpoint_every": 1, "train__sample_every": 1}
  run("main", *small_dit.arguments(RUN, train__num_steps=1, **steps))
  out = run("main", *small_dit.arguments(RUN, train__num_steps=2, **steps))
  assert "resuming from checkpoints/1" in out
  assert "finished at step 2" in out
  images = tmp_path / "images"
  out = run(
    "sample", f"--workdir={RUN}", "--unconditional", "--num=1", f"--out={images}"
  )
  assert "a at step 2" in out
  assert (images / "grid.png").is_file()
  # Nothing is written to a local folder named after the bucket.
  assert not (repository / "gs:").exists()


@pytest.mark.usefixtures("emulator")
def test_bucket_listings_show_what_another_client_wrote(repository):
  ended = subprocess.run(
    [sys.executable, "-c", LISTS],
    cwd=repository,
    capture_output=True,
    text=True,
    timeout=300,
  )
  assert ended.returncode == 0, ended.stderr
  assert ended.stdout.splitlines() == ["['a']", "['a', 'b']"]


class _Denied(http.server.BaseHTTPRequestHandler):
  """A store that permits nothing."""

  def do_GET(self):
    self.rfile.read(int(self.headers.get("content-length") or 0))
    content = b'{"error": {"code": 403, "message": "no access"}}'
    self.send_response(403)
    self.send_header("content-type", "application/json")
    self.send_header("content-length", str(len(content)))
    self.end_headers()
    self.wfile.write(content)

  do_POST = do_PUT = do_DELETE = do_GET

  def log_message(self, *_):
    pass


def test_bucket_without_permission_is_refused_at_start(command, monkeypatch):
  with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Denied) as server:
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", address)
    process = command("main", "--config=phantom:findings", f"--workdir={RUN}")
    _, err = process.communicate(timeout=120)
    server.shutdown()
  assert process.returncode == 2
  assert f"error: --workdir {RUN} (Forbidden" in err
