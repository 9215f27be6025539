"""Untrained runs of any path, made by hand, and what a user gives to them."""

from collections.abc import Callable
import dataclasses
import shutil
import zlib

import jax
import numpy as np
from PIL import Image
import pytest

from cxr_diffusion_jax.data.elixr import writer as elixr_writer
from cxr_diffusion_jax.evaluation import (
  adherence_judges,
  bench,
  conditions,
  features,
  sampling,
)
from cxr_diffusion_jax.preparation import dataset as dataset_lib
from cxr_diffusion_jax.training import experiment as experiment_lib

# ELIXR-B's one token of a text: as good here as its 128, and quick.
OF_TEXTS = {"elixr_b": "contrastive_txt_emb", "elixr_bc": "contrastive_txt_emb"}


@pytest.fixture(scope="session")
def small_with_texts(small, tmp_path_factory):
  """The small dataset with embeddings of texts as well."""
  folder = tmp_path_factory.mktemp("texts")
  root = shutil.copytree(small.root, folder / "tree")
  stems = sorted(path.stem for path in root.glob("original/*/images/*.png"))
  values = np.random.default_rng(1).standard_normal((len(stems), 128), np.float32)
  elixr_writer.write_form_a(
    root,
    kinds=["contrastive_txt_emb"],
    num_rows=len(stems),
    batches=[(np.array(stems), {"contrastive_txt_emb": values})],
    encoder="noise",
    standin=True,
  )
  return dataclasses.replace(small, root=root, records_dir=folder / "records")


@pytest.fixture(scope="session")
def prepared(small, small_with_texts):
  """Builds and prepares a path: `prepared("elixr_c", train__num_steps=2)`."""
  made = {}

  def make(path: str, **changes):
    key = path, repr(sorted(changes.items()))
    if key not in made:
      tree = small_with_texts if path in OF_TEXTS else small
      if path in OF_TEXTS:
        changes = {"conditioning__kind": OF_TEXTS[path], **changes}
      config = dataclasses.replace(tree, path=path).config(**changes)
      experiment = experiment_lib.build(config)
      dataset = dataset_lib.prepare(experiment.data, experiment.conditioner.needs)
      made[key] = experiment, dataset
    return made[key]

  return make


@pytest.fixture(scope="session")
def desk_of(prepared) -> Callable[..., conditions.Desk]:
  """The desk of a path: `desk_of("elixr_c", conditioning__reference="self")`."""

  def make(path: str, **changes) -> conditions.Desk:
    experiment, dataset = prepared(path, **changes)
    return conditions.Desk(settings=experiment.data, dataset=dataset)

  return make


@pytest.fixture(scope="session")
def run_of(prepared, tmp_path_factory) -> Callable[..., sampling.Run]:
  """The run of a path: `run_of("elixr_c", train__num_steps=2)`."""
  made = {}

  def make(path: str, **changes) -> sampling.Run:
    experiment, dataset = prepared(path, **changes)
    if id(experiment) not in made:
      statistics = dataset.description["statistics"]
      made[id(experiment)] = sampling.Run(
        workdir=tmp_path_factory.getbasetemp() / f"by_hand_{path}",
        experiment=experiment,
        dataset=dataset,
        objective=experiment.make_objective(experiment.make_codec(statistics)),
        ema_params=_params(experiment),
        checkpoint_step=3,
      )
    return made[id(experiment)]

  return make


def _params(experiment: experiment_lib.Experiment):
  """First parameters and noise: the last layer begins at zero and tells nothing."""
  return jax.tree.map(
    lambda leaf: leaf + 0.1 * jax.random.normal(jax.random.key(1), leaf.shape),
    experiment.init_fn(jax.random.key(0)),
  )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Encoder:
  """An encoder whose values tell what it was given.

  Attributes:
    whole_images: see `encoder.Encoder`.
    seen: shapes of the images that it was given.
  """

  whole_images: bool = False
  seen: list = dataclasses.field(default_factory=list)

  def value(self, text: str) -> np.ndarray:
    """[128] of this text alone."""
    seed = zlib.crc32(text.encode())
    return np.random.default_rng(seed).standard_normal(128, np.float32)

  def encode_text(self, columns, prompts):
    assert columns == ["contrastive_txt_emb"]
    return {columns[0]: np.stack([self.value(text) for text in prompts])}

  def encode_images(self, columns, images):
    assert columns == ["elixrc"]
    self.seen.extend(image.shape for image in images)
    means = np.array([image.mean() for image in images], np.float32)
    return {
      columns[0]: np.broadcast_to(means[:, None, None, None], (len(means), 8, 8, 1376))
    }


@pytest.fixture
def encoder(monkeypatch) -> Encoder:
  """What is opened in place of any encoder."""
  encoder = Encoder()
  monkeypatch.setattr(conditions.encoders, "open_encoder", lambda *_, **__: encoder)
  return encoder


@pytest.fixture
def xray(tmp_path):
  """Writes a grey X-ray: `xray("a.png", mean) -> path`."""

  def write(name: str, mean: int, size: tuple[int, int] = (60, 40)) -> str:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    pixels = np.full(size[::-1], mean, np.uint8)
    pixels[0, :2] = mean - 1, mean + 1
    Image.fromarray(pixels).save(path)
    return str(path)

  return write


@dataclasses.dataclass(frozen=True, kw_only=True)
class Judge:
  """Stands for a probe: sees a finding by the brightness of a part of the image."""

  thresholds: np.ndarray
  fingerprint: str = "judge"

  def scores(self, images) -> np.ndarray:
    stack = np.stack(list(images)).astype(np.float32)
    return stack.reshape(len(stack), -1)[:, : 14 * 32 : 32] / 255


@pytest.fixture
def judged(monkeypatch) -> Judge:
  """`Judge` judges, and a mean of 8x8 pixels is the one feature there is."""

  def open_extractors(names, **_):
    assert tuple(names) == ("auto",)
    extractor = features.Extractor(
      name="probe",
      layer="means",
      standin=True,
      fingerprint="means",
      width=16,
      batch_size=8,
      apply_fn=lambda params, images: (
        images.reshape(-1, 4, 8, 4, 8).mean(axis=(2, 4)).reshape(-1, 16)
      ),
    )
    return [extractor], {"rad_dino": "not at hand"}

  monkeypatch.setattr(features, "open_extractors", open_extractors)
  for name in ("of_anatomy", "of_boxes"):
    monkeypatch.setattr(adherence_judges, name, lambda *_, **__: "not looked for")
  judge = Judge(thresholds=np.full(14, 0.5))
  monkeypatch.setattr(bench, "train_judge", lambda records, progress: judge)
  return judge
