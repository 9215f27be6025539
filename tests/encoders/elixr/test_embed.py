"""Embedding a tree: resumed after any end, whole or not at all, nothing overwritten."""

from collections.abc import Mapping, Sequence
import dataclasses
import pathlib
import shutil
import signal
import subprocess
import sys

from absl import logging
import numpy as np
from PIL import Image
import pytest

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.encoders.elixr import embed as elixr_embed
from cxr_diffusion_jax.encoders.elixr.files import reader as elixr
from tests.fixtures.elixr_files import write_elixr

SMALL = ("contrastive_img_emb", "contrastive_txt_emb")
NUM = 11


class Stop(BaseException):
  """Ends a call as Ctrl-C does."""


@dataclasses.dataclass
class Sums:
  """An encoder: rows are filled with the image's mean, or with the text's length."""

  description: str = "sums 0123456789ab"
  standin: bool = False
  whole_images: bool = True
  stop_after: int = 10**9
  seen: list = dataclasses.field(default_factory=list)

  @property
  def shapes(self) -> Mapping[str, tuple[int, ...]]:
    return elixr.SHAPES

  def encode_text(
    self, columns: Sequence[str], prompts: Sequence[str]
  ) -> dict[str, np.ndarray]:
    return self._fill(columns, prompts, [len(prompt) for prompt in prompts])

  def encode_images(
    self, columns: Sequence[str], images: Sequence[np.ndarray]
  ) -> dict[str, np.ndarray]:
    return self._fill(columns, images, [image.mean() for image in images])

  def _fill(self, columns, inputs, values) -> dict[str, np.ndarray]:
    self.seen += [(tuple(columns), value) for value in values]
    if len(self.seen) > self.stop_after:
      raise Stop
    return {
      name: np.stack([np.full(elixr.SHAPES[name], x, np.float32) for x in values])
      for name in columns
    }


@pytest.fixture
def root(tmp_path: pathlib.Path) -> pathlib.Path:
  """Images of one grey each, of different sizes; some smaller copies are brighter."""
  root = tmp_path / "tree"
  add_images(root / "original", range(NUM))
  (root / "Data_Entry_2017.csv").write_text("Image Index\n")
  return root


def add_images(folder: pathlib.Path, numbers: Sequence[int], more: int = 0) -> None:
  folder.mkdir(parents=True, exist_ok=True)
  for i in numbers:
    image = np.full((8 + i, 9), 10 * i + more, np.uint8)
    Image.fromarray(image).save(folder / f"{i:08d}_000.png")


@pytest.fixture
def prompts() -> dict[str, str]:
  return {f"{i:08d}_000": "x" * i for i in range(NUM + 3)}


def read(root: pathlib.Path, kind: str) -> dict[str, float]:
  """What is stored of each image; every row must be one number."""
  result = {}
  for stems, values in elixr.find_elixr(root, kind).batches():
    assert values.dtype == np.float32
    flat = values.reshape(len(values), -1)
    assert (flat == flat[:, :1]).all()
    result |= dict(zip(stems.tolist(), flat[:, 0].tolist(), strict=True))
  return result


def greys(numbers: Sequence[int]) -> dict[str, float]:
  return {f"{i:08d}_000": 10.0 * i for i in numbers}


def test_embed_writes_every_kind(root, prompts):
  reported, encoder = [], Sums()
  kinds = tuple(elixr.SHAPES)
  results = elixr_embed.embed(
    root, kinds, encoder, prompts=prompts, batch_size=4,
    progress=lambda *now: reported.append(now),
  )  # fmt: skip
  assert results == kinds
  for kind in kinds:
    wanted = {i: float(int(i[:8])) for i in greys(range(NUM))}
    assert read(root, kind) == (wanted if "txt" in kind else greys(range(NUM)))
    result = elixr.find_elixr(root, kind)
    assert (result.form, result.standin) == ("A", False)
    assert result.encoder == encoder.description
  assert [now[1:] for now in reported] == [(4, 11), (8, 11), (11, 11)]
  assert not (root / ".elixr-embed").exists()
  # Each image is encoded once for all kinds that images have.
  assert len([names for names, _ in encoder.seen if "elixrc" in names]) == NUM


def test_embed_takes_the_largest_copy_of_an_image(root):
  add_images(root / "8x8", range(NUM + 2), more=1)
  add_images(root / "16x16", range(NUM + 1), more=2)
  elixr_embed.embed(root, ["contrastive_img_emb"], Sums())
  wanted = greys(range(NUM)) | {"00000011_000": 112.0, "00000012_000": 121.0}
  assert read(root, "contrastive_img_emb") == wanted


def test_embed_does_nothing_twice(root, prompts):
  elixr_embed.embed(root, ["elixrc"], Sums())
  before = elixr.find_elixr(root, "elixrc").fingerprint()
  encoder = Sums()
  assert elixr_embed.embed(root, ["elixrc"], encoder) == ()
  assert encoder.seen == []
  results = elixr_embed.embed(root, ["elixrc", *SMALL], encoder, prompts=prompts)
  assert results == SMALL
  assert {names for names, _ in encoder.seen} == {SMALL[:1], SMALL[1:]}
  assert elixr.find_elixr(root, "elixrc").fingerprint() == before


def test_embed_adds_only_new_images(root):
  elixr_embed.embed(root, SMALL[:1], Sums())
  add_images(root / "original", [11, 12])
  encoder = Sums()
  assert elixr_embed.embed(root, SMALL[:1], encoder) == SMALL[:1]
  assert [value for _, value in encoder.seen] == [110, 120]
  assert read(root, SMALL[0]) == greys(range(13))


@pytest.mark.parametrize("stop_after", [0, 3, 4, 9])
def test_embed_resumes_after_an_interruption(root, prompts, stop_after):
  files = {"batch_size": 2, "rows_per_file": 4}
  with pytest.raises(Stop):
    elixr_embed.embed(root, SMALL[:1], Sums(stop_after=stop_after), **files)
  assert elixr.find_elixr(root, SMALL[0]) is None
  encoder = Sums()
  results = elixr_embed.embed(root, SMALL, encoder, prompts=prompts, **files)
  assert results == SMALL
  images = [value for names, value in encoder.seen if names == SMALL[:1]]
  assert images == [10.0 * i for i in range(stop_after // 4 * 4, NUM)]
  assert read(root, SMALL[0]) == greys(range(NUM))
  assert len(read(root, SMALL[1])) == NUM


def test_embed_loses_one_file_at_most_to_a_kill(root, repository):
  script = """
import os, signal, sys
import numpy as np
from cxr_diffusion_jax.encoders.elixr.files import reader as elixr
from cxr_diffusion_jax.encoders.elixr import embed as elixr_embed

class Dying:
  description, standin, whole_images = "sums 0123456789ab", False, True
  shapes, left = elixr.SHAPES, 9

  def encode_images(self, columns, images):
    self.left -= len(images)
    if self.left < 0:
      os.kill(os.getpid(), signal.SIGKILL)
    means = [image.mean() for image in images]
    return {"elixrc": np.stack([np.full((8, 8, 1376), x, np.float32) for x in means])}

elixr_embed.embed(sys.argv[1], ["elixrc"], Dying(), batch_size=2, rows_per_file=4)
"""
  command = [sys.executable, "-c", script, str(root)]
  ended = subprocess.run(command, cwd=repository, check=False)
  assert ended.returncode == -signal.SIGKILL
  assert elixr.find_elixr(root, "elixrc") is None
  encoder = Sums()
  assert elixr_embed.embed(root, ["elixrc"], encoder) == ("elixrc",)
  assert [value for _, value in encoder.seen] == [10.0 * i for i in range(8, NUM)]
  assert read(root, "elixrc") == greys(range(NUM))


def test_embed_never_touches_other_embeddings(root):
  def write(*, standin: bool, folder: str = "elixrb/contrastive") -> None:
    stems, values = ["00000000_000", "x"], np.ones((2, 128), np.float32)
    write_elixr(
      root, SMALL[0], stems, values, encoder="another", folder=folder, standin=standin
    )

  write(standin=True, folder="")
  elixr_embed.embed(root, SMALL[:1], Sums())
  assert read(root, SMALL[0]) == greys(range(NUM))
  shutil.rmtree(root / "elixrb")
  write(standin=False)
  before = elixr.find_elixr(root, SMALL[0]).fingerprint()
  for encoder in (Sums(), Sums(standin=True), Sums(description="another 1")):
    with pytest.raises(errors.InputError, match=r"another in .*contrastive; expected"):
      elixr_embed.embed(root, SMALL[:1], encoder)
  assert elixr.find_elixr(root, SMALL[0]).fingerprint() == before


def test_embed_replaces_standins(root):
  elixr_embed.embed(root, SMALL[:1], Sums(description="one", standin=True))
  elixr_embed.embed(root, SMALL[:1], Sums(description="two", standin=True))
  result = elixr.find_elixr(root, SMALL[0])
  assert (result.encoder, result.standin, result.num_rows) == ("two", True, NUM)
  elixr_embed.embed(root, SMALL[:1], Sums())
  result = elixr.find_elixr(root, SMALL[0])
  assert (result.encoder, result.standin, result.num_rows) == (
    Sums().description, False, NUM,
  )  # fmt: skip


def test_embed_reports_unfinished_work_of_another_encoder(root):
  with pytest.raises(Stop):
    elixr_embed.embed(
      root, SMALL[:1], Sums(stop_after=5), batch_size=4, rows_per_file=4
    )
  with pytest.raises(errors.InputError, match="unfinished embeddings of sums 01"):
    elixr_embed.embed(root, SMALL[:1], Sums(description="another"))


def test_embed_keeps_texts_with_their_embeddings(root, prompts, monkeypatch):
  reported = []
  monkeypatch.setattr(
    logging, "warning", lambda text, *more: reported.append(text % more)
  )
  some = {stem: prompts[stem] for stem in list(prompts)[:6]}
  assert elixr_embed.embed(root, SMALL[1:], Sums(), prompts=some) == SMALL[1:]
  assert len(read(root, SMALL[1])) == 6
  assert "5 of 11 images have no text" in reported[0]
  assert elixr_embed.embed(root, SMALL[1:], Sums(), prompts=prompts) == SMALL[1:]
  assert len(read(root, SMALL[1])) == NUM
  changed = {**prompts, "00000003_000": "other"}
  with pytest.raises(errors.InputError, match=r"other texts for 1 images.*'xxx'"):
    elixr_embed.embed(root, SMALL[1:], Sums(), prompts=changed)
  for nothing in (None, {}, {"unknown": "x"}):
    with pytest.raises(errors.InputError, match="no texts for contrastive_txt_emb"):
      elixr_embed.embed(root, SMALL, Sums(), prompts=nothing)


def test_embed_checks_the_disk_first(root, monkeypatch):
  encoder = Sums()
  full = shutil._ntuple_diskusage(10**9, 10**9, 11 * 8 * 8 * 1376 * 4 - 1)
  monkeypatch.setattr(shutil, "disk_usage", lambda path: full)
  with pytest.raises(errors.InputError, match=r"free for elixrc"):
    elixr_embed.embed(root, ["elixrc"], encoder)
  assert encoder.seen == []


def test_embed_names_damaged_images_and_refuses_infinities(root, prompts):
  path = root / "original" / "00000002_000.png"
  path.write_bytes(path.read_bytes()[:40])
  with pytest.raises(errors.InputError, match=r"00000002_000\.png"):
    elixr_embed.embed(root, SMALL[:1], Sums())
  add_images(root / "original", [2])

  class Broken(Sums):
    def encode_images(self, columns, images):
      results = super().encode_images(columns, images)
      return {name: values + np.float32(np.nan) for name, values in results.items()}

  with pytest.raises(errors.InputError, match="NaN or infinite"):
    elixr_embed.embed(root, SMALL[:1], Broken())
  assert elixr.find_elixr(root, SMALL[0]) is None
