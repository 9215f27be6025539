"""The form of a record: a tf.train.Example in ArrayRecord files, with TFDS's metadata.

example dict -> tfds features -> bytes -> ArrayRecord -> bytes -> example dict

Arrays are stored as their bytes: lists of floats take a Python loop to read. TFDS reads
the folders (`tfds.builder_from_directory(...).as_data_source()`); this module's reader
does the same in a quarter of the time. Neither needs tensorflow.
"""

from collections.abc import Sequence
import os
from pathlib import Path
import shutil
from types import ModuleType
from typing import TYPE_CHECKING, cast

from etils import epath
import numpy as np

from cxr_diffusion_jax import artifacts, checked_files
from cxr_diffusion_jax.data import array_records
from cxr_diffusion_jax.data.sources import base

if TYPE_CHECKING:
  import tensorflow_datasets as tfds

NAME = "chest_xrays"
VERSION = "1.0.0"


def example_class() -> type:
  """Imports tf.train.Example.

  Call it before threads read: two threads that import TFDS at once can deadlock, since
  its lazy imports share one lock on Python 3.11.
  """
  from tensorflow_datasets.proto import tf_example_pb2

  # Its class is made when it is imported.
  return tf_example_pb2.Example  # pyright: ignore


def parse_example(
  message: type, example: bytes, image_size: int, row: int
) -> dict[str, np.ndarray]:
  """Parses a serialized tf.train.Example with `message`, of `example_class`.

  Returns:
    The fields of `records.RecordSource`; arrays are read-only views.
  """
  features = message.FromString(example).features.feature

  def array(name: str, dtype: str, *shape: int) -> np.ndarray:
    return np.frombuffer(features[name].bytes_list.value[0], dtype).reshape(shape)

  fields = {
    "image": array("image", "u1", image_size, image_size, 1),
    "findings": array("findings", "<f4", -1),
    "boxes": array("boxes", "<f4", -1, 4),
    "expert": array("expert", "<f4", -1),
    "age": np.float32(features["age"].float_list.value[0]),
    "sex": np.int32(features["sex"].int64_list.value[0]),
    "view": np.int32(features["view"].int64_list.value[0]),
    "patient": np.int32(features["patient"].int64_list.value[0]),
    "row": np.int32(row),
  }
  # numpy's scalars serve as arrays without axes.
  return cast(dict[str, np.ndarray], fields)


def write_dataset(
  folder: Path,
  split: str,
  examples: Sequence[artifacts.Json],
  *,
  image_size: int,
  vocabulary: Sequence[str],
) -> None:
  """Writes examples as a TFDS dataset of one split, whole or not at all.

  Args:
    examples: at least one; keys as in `parse_example`, and `id`.

  Raises:
    OSError: the disk is full.
  """
  import tensorflow_datasets as tfds

  features = _features(tfds, image_size, len(vocabulary))
  target = folder / NAME / VERSION
  partial = folder / f"{NAME}{artifacts.SUFFIX}" / VERSION
  shutil.rmtree(partial.parent, ignore_errors=True)
  partial.mkdir(parents=True)
  # TFDS's own writer compresses harder: a tenth smaller, three times as slow to read.
  array_records.write(
    partial / f"{NAME}-{split}.array_record-00000-of-00001",
    (features.serialize_example(example) for example in examples),
    compression="zstd:-5",
  )
  template = tfds.core.ShardedFileTemplate(
    dataset_name=NAME,
    split=split,
    filetype_suffix="array_record",
    data_dir=epath.Path(partial),
  )
  tfds.folder_dataset.write_metadata(
    data_dir=partial,
    features=features,
    split_infos=[
      tfds.core.SplitInfo(
        name=split,
        shard_lengths=[len(examples)],
        num_bytes=sum(path.stat().st_size for path in partial.iterdir()),
        filename_template=template,
      )
    ],
    # The check would read the file with tensorflow.
    check_data=False,
    description=f"Chest X-rays, square and grey, with {', '.join(vocabulary)}.",
    disable_shuffling=True,
  )
  shutil.rmtree(target.parent, ignore_errors=True)
  os.replace(partial.parent, target.parent)


def shards(folder: Path, split: str) -> tuple[tuple[Path, int], ...]:
  """The files of a dataset and their rows; none if `write_dataset` did not finish."""
  dataset = folder / NAME / VERSION
  info = dataset / "dataset_info.json"
  if not info.is_file():
    return ()
  try:
    (description,) = artifacts.read_json(info)["splits"]
    counts = [int(count) for count in description["shardLengths"]]
  except (KeyError, TypeError, ValueError) as error:
    raise checked_files.damaged(info, f"{type(error).__name__}: {error}") from error
  paths = sorted(dataset.glob(f"{NAME}-{split}.array_record-*"))
  # Fewer when somebody deleted one: the dataset is made again.
  return tuple(zip(paths, counts, strict=True)) if len(paths) == len(counts) else ()


def _features(
  tfds: ModuleType, image_size: int, num_findings: int
) -> "tfds.features.FeaturesDict":
  def stored(*shape: int, dtype: type = np.float32) -> "tfds.features.Tensor":
    encoding = tfds.features.Encoding.BYTES
    return tfds.features.Tensor(shape=shape, dtype=dtype, encoding=encoding)

  return tfds.features.FeaturesDict(
    {
      "id": tfds.features.Text(),
      "image": stored(image_size, image_size, 1, dtype=np.uint8),
      "findings": stored(num_findings),
      "boxes": stored(num_findings, 4),
      "expert": stored(len(base.EXPERT_FINDINGS)),
      "age": np.float32,
      "sex": np.int32,
      "view": np.int32,
      "patient": np.int32,
    }
  )
