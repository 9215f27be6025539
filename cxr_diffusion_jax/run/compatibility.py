"""Checks that a resumed run has the same config and data, but for what may change."""

from collections.abc import Mapping
from typing import NoReturn

from cxr_diffusion_jax import artifacts, errors
from cxr_diffusion_jax.encoders import base as encoders
from cxr_diffusion_jax.encoders.latents import autoencoders
from cxr_diffusion_jax.encoders.latents import columns as latent_columns
from cxr_diffusion_jax.parallel import agreement
from cxr_diffusion_jax.run import card as card_lib
from cxr_diffusion_jax.run import sections

# Config keys of places that may differ between the hosts of a run: their contents are
# compared.
LOCATIONS = (
  "codec.folder",
  "conditioning.encoder",
  "repa.encoder",
  "data.records_dir",
  "data.root",
)

# Config keys, or sections if they end in a dot, that a resumed run may change: how
# long, where and how fast it trains and what it reports, but not what it learns.
MAY_CHANGE = (
  # The contents of these are compared by `check_data` and `check_autoencoder`.
  *LOCATIONS,
  "data.columns",
  "data.rename",
  "data.num_workers",
  "data.source",
  "data.standin",
  "data.views",
  "data.vocabulary",
  # Read only at step 0; it may move, but not be added or removed.
  "model.pretrained",
  "model.scan_blocks",
  "parallel.",
  "sample.",
  "train.checkpoint_every",
  "train.keep",
  "train.keep_every",
  "train.log_every",
  "train.max_skipped",
  "train.num_steps",
  "train.on_nan",
  "train.patience",
  "train.power_ema_every",
  "train.profile_steps",
  "train.sample_every",
  "train.validate_every",
  "train.validation_batches",
)

# Keys that a run may also change to go on from a checkpoint that it was given by step,
# as after a divergence. They change what is learned.
RATES = ("optimizer.clip_norm", "optimizer.learning_rate")

# Keys that older versions lacked, with the value that their absence implies.
_ADDED = {
  "conditioning.all_states": False,
  "conditioning.source_token": False,
  "data.phantom_visits": 0.0,
  "data.augment": 0.0,
  "data.balance": 0.0,
  "data.captions": 1,
  "data.caption_drop": 0.0,
  "train.init_from": "",
  "train.max_skipped": 10,
  "train.on_nan": "stop",
  "model.dropout": 0.0,
  "model.scan_blocks": "auto",
  "model.head": "linear",
  "model.stem": "linear",
}


def flatten(tree: artifacts.JsonMapping, prefix: str = "") -> artifacts.Json:
  """Returns {'a.b.c': value} of nested mappings."""
  flat: artifacts.Json = {}
  for key, value in tree.items():
    if isinstance(value, Mapping):
      flat.update(flatten(value, f"{prefix}{key}."))
    else:
      flat[f"{prefix}{key}"] = value
  return flat


def check_config(
  saved: artifacts.JsonMapping,
  wanted: artifacts.JsonMapping,
  workdir: str = "RUN",
  *,
  rates: bool = False,
) -> list[str]:
  """Compares the config of a checkpoint with the one the run has now.

  Args:
    workdir: for the message.
    rates: whether `RATES` may change.

  Returns:
    One line for each allowed change.

  Raises:
    errors.InputError: they differ in what is learned; the keys are named.
  """
  old, new = _flat(saved), _flat(wanted)
  differing = _differing(old, new)
  refused = [
    _both(key, old, new)
    for key in differing
    if not (_may_change(key) or (rates and key in RATES))
    or (key == "model.pretrained" and not (old.get(key) and new.get(key)))
  ]
  if refused:
    raise errors.InputError(
      f"the checkpoints in this workdir are of another config: {'; '.join(refused)}",
      fix="give the same values; or start a new run from these weights with a new"
      f" --workdir and --config.train.init_from={workdir}",
    )
  lines = [
    f"config.{key}: {old.get(key, 'unset')} -> {new.get(key, 'unset')}"
    for key in differing
  ]
  if "train.num_steps" in differing and new.get("optimizer.schedule") == "cosine":
    lines.append(f"the cosine learning rate now ends at step {new['train.num_steps']}")
  return lines


def check_unedited(
  folder: artifacts.PathLike,
  saved: artifacts.JsonMapping,
  config: artifacts.JsonMapping,
  card: card_lib.DatasetCard,
  *,
  newest: bool,
) -> None:
  """Compares a run's config.json and dataset.json with what a checkpoint holds.

  Args:
    folder: the run's folder, for the message.
    saved: of the checkpoint, with the entries `config` and `data`.
    newest: whether it is the newest, which has the present section `sample`.

  Raises:
    errors.InputError: they differ in what sampling depends on, and the keys are named;
      or a file is not as it was written.
  """
  old, new = _flat(saved["config"]), _flat(config)
  differing = [
    f"config.{_both(key, old, new)}"
    for key in _differing(old, new)
    if not (_may_change(key) or key in RATES) or (newest and key.startswith("sample."))
  ]
  then = card_lib.from_json(saved["data"], saved["config"])
  there, here = (
    {name: getattr(one, name) for name in ("image_size", "resize", "vocabulary")}
    | {f"statistics.{key}": value for key, value in one.statistics.items()}
    | {f"columns.{key}": column.encoder for key, column in one.columns.items()}
    # Cards of the first version have no fingerprints.
    | ({"fingerprints": dict(one.fingerprints)} if card.fingerprints else {})
    for one in (then, card)
  )
  differing += [f"dataset.{key}" for key in _differing(there, here)]
  if differing:
    raise errors.InputError(
      f"config.json or dataset.json in {folder} is not as training wrote it:"
      f" {'; '.join(differing[:5])}",
      "what the checkpoints hold",
      "put the values back, or copy the run's folder again",
    )
  # Values that a run may change, such as `data.root`.
  card_lib.check_whole(folder)


def _flat(config: artifacts.JsonMapping) -> artifacts.Json:
  """A whole config, flat and plain: one from JSON has no tuples."""
  return {**_ADDED, **flatten(sections.plain(config))}


def _differing(old: artifacts.JsonMapping, new: artifacts.JsonMapping) -> list[str]:
  return [
    key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)
  ]


def _may_change(key: str) -> bool:
  return bool({key, f"{key.split('.')[0]}."} & {*MAY_CHANGE})


def _both(key: str, old: artifacts.JsonMapping, new: artifacts.JsonMapping) -> str:
  return f"{key} ({old.get(key, 'unset')} there, {new.get(key, 'unset')} here)"


def check_hosts(config: artifacts.JsonMapping) -> None:
  """Raises errors.InputError if hosts of a run have different configs."""
  flat = flatten(sections.plain(config))
  values = {key: value for key, value in flat.items() if key not in LOCATIONS}
  agreement.check_same("config", values, "start the same command on every host")


def check_hosts_data(card: card_lib.DatasetCard) -> None:
  """Raises errors.InputError if hosts of a run read different data."""
  values = {f"records {name}": value for name, value in card.fingerprints.items()}
  for columns in (card.columns, card.targets, card.latents):
    for name, (encoder, _, fingerprint) in _identity(columns, exact=True).items():
      values[name] = f"{fingerprint} of {encoder}"
  agreement.check_same(
    "dataset", values, "copy the data and the records of one host to the others"
  )


def check_data(
  saved: card_lib.DatasetCard,
  wanted: card_lib.DatasetCard,
  autoencoder: autoencoders.Autoencoder | None = None,
) -> None:
  """Compares the data that a run was trained on with the present data.

  Args:
    wanted: the card of the present data. Targets and latents that it lacks are not
      compared, because sampling reads neither.
    autoencoder: the one that decodes latents, if their column is not read.

  Raises:
    errors.InputError: the records, a column or the autoencoder are not the same.
  """
  check_autoencoder(saved, autoencoder)
  # Cards of earlier versions are compared by what they state about the content.
  parts = ("fingerprints",) if saved.fingerprints else ("num_rows", "statistics")
  for part in parts:
    there, here = dict(getattr(saved, part)), dict(getattr(wanted, part))
    differing = sorted(key for key in here if there.get(key, here[key]) != here[key])
    if differing:
      _refuse(
        " and ".join(differing),
        str(there[differing[0]])[:12],
        str(here[differing[0]])[:12],
      )
  for key in ("columns", "targets", "latents"):
    there, here = getattr(saved, key), getattr(wanted, key)
    exact = bool(saved.fingerprints)
    same = _identity(there, exact) == _identity(here, exact)
    if (here or key == "columns") and not same:
      _refuse(key, _short(there), _short(here))


def check_autoencoder(
  card: card_lib.DatasetCard, autoencoder: autoencoders.Autoencoder | None
) -> None:
  """Refuses an autoencoder other than the one that made the run's latents."""
  column = card.latents.get(latent_columns.NAME)
  if autoencoder is None or column is None:
    return
  if column.encoder != autoencoder.description:
    raise errors.InputError(
      f"config.codec.folder={autoencoder.name} holds {autoencoder.description}",
      f"{column.encoder}, whose latents the run learned from",
      "name the folder of that autoencoder, or a new --workdir",
    )


def _refuse(key: str, there: str, here: str) -> NoReturn:
  raise errors.InputError(
    f"the checkpoints in this workdir are of other data: {key} {there} there,"
    f" {here} here",
    fix="name a new --workdir, or restore the tree that the run began with",
  )


def _identity(
  columns: Mapping[str, card_lib.ColumnCard], exact: bool
) -> dict[str, tuple[str, bool, str]]:
  # An encoder's location does not matter. Fingerprints of earlier versions depended on
  # modification times.
  return {
    name: (
      encoders.identity(column.encoder),
      column.standin,
      column.fingerprint if exact else "",
    )
    for name, column in columns.items()
  }


def _short(columns: Mapping[str, card_lib.ColumnCard]) -> str:
  return ", ".join(
    f"{name} of {column.encoder} ({column.fingerprint[:8]})"
    for name, column in sorted(columns.items())
  )
