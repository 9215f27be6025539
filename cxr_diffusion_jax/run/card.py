"""What a run's folder states of the run: its config, and the card of its dataset.

  config, Dataset.card --write--> WORKDIR/{config, dataset}.json --read--> config, card

The card holds what a codec and a request need, so that a run opens without its data,
and fingerprints that identify the data.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import os

from etils import epath

from cxr_diffusion_jax import artifacts, checked_files, errors
from cxr_diffusion_jax.data import captions as captions_lib
from cxr_diffusion_jax.data.columns import column as columns_lib
from cxr_diffusion_jax.data.sources.nih import metadata

# Version of the run folder's format; raised when older readers cannot read new runs.
FORMAT = 3

CONFIG, DATASET = "config.json", "dataset.json"

# Entries of the files that are not of the config or the card.
_EXTRA = ("format", checked_files.CHECKSUM)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ColumnCard:
  """A column of embeddings, without its rows.

  Attributes:
    encoder: one line with the encoder's name and the fingerprint of its weights.
    standin: whether this project trained the encoder.
    fingerprint: of the column's content.
    shape: of one row; () in cards of an older version.
    captions: of a training row, of which each step draws one.
  """

  encoder: str
  standin: bool
  fingerprint: str
  shape: tuple[int, ...] = ()
  captions: int = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class DatasetCard:
  """The data of a run, in a few kilobytes.

  Attributes:
    fingerprint: of the records' content.
    fingerprints: of its parts, see `Records.fingerprints`; {} in cards of an earlier
      version, whose `fingerprint` was not of content alone.
    kind: description for people: phantoms or real images, stand-ins or not.
    statistics: of the training images and latents, for the codec.
    targets: columns that training compares features with.
    latents: the column that is denoised in place of images.
  """

  fingerprint: str
  kind: str
  phantom: bool
  vocabulary: tuple[str, ...]
  image_size: int
  resize: str
  num_rows: Mapping[str, int]
  statistics: artifacts.JsonMapping
  columns: Mapping[str, ColumnCard]
  targets: Mapping[str, ColumnCard] = dataclasses.field(default_factory=dict)
  latents: Mapping[str, ColumnCard] = dataclasses.field(default_factory=dict)
  fingerprints: Mapping[str, str] = dataclasses.field(default_factory=dict)
  root: str = ""
  records_dir: str = ""

  def with_shapes(self, shapes: Mapping[str, tuple[int, ...]]) -> "DatasetCard":
    """Returns the card with these column shapes."""
    columns = {
      name: dataclasses.replace(column, shape=tuple(shapes[name]))
      for name, column in self.columns.items()
    }
    return dataclasses.replace(self, columns=columns)

  def to_json(self) -> artifacts.Json:
    """Plain values for `dataset.json`."""
    return dataclasses.asdict(self)


def describe(
  columns: Sequence[columns_lib.Column],
  captions: captions_lib.Captions = captions_lib.NO_CAPTIONS,
) -> dict[str, ColumnCard]:
  """Cards of columns by name; `captions` are those of their training rows."""
  return {
    about.name: ColumnCard(
      encoder=about.encoder,
      standin=about.standin,
      fingerprint=about.fingerprint,
      shape=tuple(about.shape),
      captions=1 + len(captions.columns.get(about.name, ())),
    )
    for about in (column.description for column in columns)
  }


def from_json(
  values: artifacts.JsonMapping, config: artifacts.JsonMapping
) -> DatasetCard:
  """Reads a card back.

  Args:
    values: from `to_json`, or from the `dataset.json` of an early version.
    config: the run's config, for values that the early version did not write.

  Raises:
    errors.InputError: something is missing or unknown.
  """
  try:
    data = config["data"]
    older = {
      "phantom": values["kind"].startswith("phantom"),
      "vocabulary": metadata.FINDINGS,
      "image_size": data.get("image_size", 0),
      "resize": data.get("resize", "crop"),
    }
    values = {**older, **values}
    for name in ("columns", "targets", "latents"):
      values[name] = {
        column: ColumnCard(**{**about, "shape": tuple(about.get("shape", ()))})
        for column, about in values.get(name, {}).items()
      }
    return DatasetCard(**{**values, "vocabulary": tuple(values["vocabulary"])})
  except (KeyError, TypeError, AttributeError) as error:
    raise errors.InputError(
      f"dataset.json is not a dataset card: {error}",
      "the file that training wrote",
      "copy the run's folder again",
    ) from error


def write(
  folder: artifacts.PathLike, config: artifacts.JsonMapping, card: DatasetCard
) -> None:
  """Writes both files, each completely or not at all."""
  folder = epath.Path(folder)
  checked_files.write_json(folder / DATASET, {"format": FORMAT, **card.to_json()})
  checked_files.write_json(folder / CONFIG, {"format": FORMAT, **config})


def read(
  folder: artifacts.PathLike,
) -> tuple[artifacts.Json, DatasetCard]:
  """Reads both files: (config, card). `check_whole` compares their checksums.

  Raises:
    errors.InputError: the folder holds no run, or one of a newer format.
  """
  config, values = (_read(epath.Path(folder) / name) for name in (CONFIG, DATASET))
  return config, from_json(values, config)


def _read(path: epath.Path) -> artifacts.Json:
  if not path.exists():
    raise errors.InputError(
      f"{path.parent} has no {path.name}",
      "the folder of a run",
      "name the folder that main was called with",
    )
  values = artifacts.read_json(path)
  if not isinstance(values, dict):
    raise errors.InputError(f"{path} holds no JSON object", "what training wrote there")
  check_format(os.fspath(path), values)
  return {key: values[key] for key in values if key not in _EXTRA}


def check_whole(folder: artifacts.PathLike) -> None:
  """Compares both files with their checksums, which earlier versions did not write.

  Raises:
    errors.InputError: a file was changed after training wrote it.
  """
  fix = "copy it again, or delete its entry crc32 if it was changed on purpose"
  for name in (CONFIG, DATASET):
    checked_files.read_json(epath.Path(folder) / name, fix)


def check_format(place: str, values: artifacts.JsonMapping) -> None:
  """Raises errors.InputError for a file of a newer version."""
  version = values.get("format", 1)
  if not isinstance(version, int) or version > FORMAT:
    raise errors.InputError(
      f"{place} has format {version}",
      f"format {FORMAT} or older",
      "update cxr_diffusion_jax to the version that trained this run",
    )
