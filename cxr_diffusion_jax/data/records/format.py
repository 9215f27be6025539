"""The form of a record: a tf.train.Example that TFDS writes to ArrayRecord files.

example dict -> tfds.core.GeneratorBasedBuilder -> ArrayRecord -> bytes -> example dict

Arrays are stored as their bytes: lists of floats take a Python loop to read. Any
TFDS reads the folders (`tfds.builder_from_directory(...).as_data_source()`); this
module's reader does the same in a quarter of the time, without tensorflow.
"""

from collections.abc import Iterable, Sequence
import json
import os
from pathlib import Path
import shutil
from types import ModuleType
from typing import ClassVar

import numpy as np

from cxr_diffusion_jax.data import labels

VERSION = "1.0.0"


def open_shards(paths: Sequence[str]):
  """Opens ArrayRecord files as one sequence of bytes, `path[from:to]` each."""
  # Imported here, as array_record defines absl flags when it is.
  from array_record.python import array_record_data_source

  return array_record_data_source.ArrayRecordDataSource(paths)


def example_class() -> type:
  """Imports tf.train.Example.

  To be called before threads read: two that import TFDS at once can wait for each
  other for ever, since its lazy imports take one lock for all of them on Python 3.11.
  """
  from tensorflow_datasets.proto import tf_example_pb2

  return tf_example_pb2.Example


def parse_example(
  message: type, example: bytes, image_size: int
) -> dict[str, np.ndarray]:
  """Reads one record.

  Args:
    message: of `example_class`.
    example: a serialized tf.train.Example.
    image_size: pixels of a side.

  Returns:
    The fields of `records.RecordSource` but `row`; arrays are read-only views.
  """
  features = message.FromString(example).features.feature

  def array(name: str, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    return np.frombuffer(features[name].bytes_list.value[0], dtype).reshape(shape)

  return {
    "image": array("image", "u1", (image_size, image_size, 1)),
    "findings": array("findings", "<f4", (len(labels.FINDINGS),)),
    "boxes": array("boxes", "<f4", (len(labels.FINDINGS), 4)),
    "expert": array("expert", "<f4", (4,)),
    "age": np.float32(features["age"].float_list.value[0]),
    "sex": np.int32(features["sex"].int64_list.value[0]),
    "view": np.int32(features["view"].int64_list.value[0]),
    "patient": np.int32(features["patient"].int64_list.value[0]),
  }


def write_dataset(
  folder: Path, split: str, image_size: int, examples: Sequence[dict]
) -> None:
  """Writes examples as a TFDS dataset of one split, whole or not at all.

  Args:
    folder: of the dataset.
    split: its only split.
    image_size: pixels of a side.
    examples: at least one; keys as in `parse_example`, and `id`.
  """
  import tensorflow_datasets as tfds

  tfds.disable_progress_bar()
  builder = _builder_class(tfds, split, image_size)(
    data_dir=folder, file_format="array_record"
  )
  builder.examples = examples
  builder.download_and_prepare(
    download_config=tfds.download.DownloadConfig(try_download_gcs=False)
  )
  # TFDS keeps classes and builders for ever: they shall not keep the images too.
  builder.examples = ()
  # TFDS makes this folder even where nothing is downloaded.
  shutil.rmtree(folder / "downloads", ignore_errors=True)


def shards(folder: Path, split: str) -> tuple[tuple[Path, int], ...]:
  """The files of a dataset and their rows; none where `write_dataset` did not end."""
  dataset = folder / "chest_xrays" / VERSION
  info = dataset / "dataset_info.json"
  if not info.is_file():
    return ()
  (description,) = json.loads(info.read_text())["splits"]
  counts = [int(count) for count in description["shardLengths"]]
  paths = sorted(dataset.glob(f"chest_xrays-{split}.array_record-*"))
  # Fewer where somebody deleted one: the dataset is made again.
  return tuple(zip(paths, counts, strict=True)) if len(paths) == len(counts) else ()


def _builder_class(tfds: ModuleType, split: str, image_size: int) -> type:
  """Made when it is needed, as TFDS must not be imported when this module is."""

  class DatasetInfo(tfds.core.DatasetInfo):
    """Knows that nobody publishes these records: asks no bucket for them."""

    def initialize_from_bucket(self) -> None:
      pass

  class ChestXrays(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Chest X-rays with NIH's and Google's labels, square and grey."""

    VERSION = tfds.core.Version(VERSION)
    # Nothing is downloaded, so there are no checksums to look for beside the code.
    url_infos: ClassVar[dict] = {}
    examples: Sequence[dict] = ()

    def _info(self) -> tfds.core.DatasetInfo:
      return DatasetInfo(
        builder=self,
        description=type(self).__doc__,
        features=_features(tfds, image_size),
        homepage="https://nihcc.app.box.com/v/ChestXray-NIHCC",
        citation="X. Wang et al., ChestX-ray8, IEEE CVPR 2017",
        disable_shuffling=True,
      )

    def _split_generators(self, dl_manager) -> dict:
      del dl_manager
      return {split: self._generate_examples()}

    def _generate_examples(self):
      yield from enumerate(self.examples)

    # TFDS's own writer compresses harder: a tenth smaller, three times as slow to read.
    def _example_writer(self) -> _Writer:
      return _Writer()

    # TFDS prints these to stdout, which is not a library's to write to.
    def _log_download_bytes(self) -> None:
      pass

    def _log_download_done(self) -> None:
      pass

  return ChestXrays


class _Writer:
  """Writes one ArrayRecord file for TFDS, compressed lightly."""

  def write(self, path: os.PathLike, examples: Iterable[tuple[int, bytes]]) -> None:
    from array_record.python import array_record_module

    # Grain wants groups of one record, to read any of them without its neighbours.
    writer = array_record_module.ArrayRecordWriter(
      os.fspath(path), "group_size:1,zstd:-5"
    )
    for _, example in examples:
      writer.write(example)
    writer.close()


def _features(tfds: ModuleType, image_size: int):
  def stored(shape: tuple[int, ...], dtype: type) -> tfds.features.Tensor:
    encoding = tfds.features.Encoding.BYTES
    return tfds.features.Tensor(shape=shape, dtype=dtype, encoding=encoding)

  return tfds.features.FeaturesDict(
    {
      "id": tfds.features.Text(),
      "image": stored((image_size, image_size, 1), np.uint8),
      "findings": stored((len(labels.FINDINGS),), np.float32),
      "boxes": stored((len(labels.FINDINGS), 4), np.float32),
      "expert": stored((4,), np.float32),
      "age": np.float32,
      "sex": np.int32,
      "view": np.int32,
      "patient": np.int32,
    }
  )
