"""Makes what training reads: records, and columns of their rows.

  tree --records--> rows --encoders, autoencoder--> columns, latents

Several processes that see one folder make a share each; then one of them joins the
shares. Finished work is not repeated.
"""

from collections.abc import Iterator, Sequence
import contextlib
import dataclasses

import jax

from cxr_diffusion_jax import types
from cxr_diffusion_jax.conditioning import base as conditioning
from cxr_diffusion_jax.data.records import moved
from cxr_diffusion_jax.data.records import records as records_lib
from cxr_diffusion_jax.data.settings import DataSettings
from cxr_diffusion_jax.data.sources import phantom
from cxr_diffusion_jax.encoders import opening as encoders
from cxr_diffusion_jax.encoders.latents import autoencoders
from cxr_diffusion_jax.encoders.latents import columns as latent_columns
from cxr_diffusion_jax.parallel import agreement
from cxr_diffusion_jax.run import locks


@dataclasses.dataclass(frozen=True, kw_only=True)
class Asked:
  """The columns to make.

  Attributes:
    needs: of a path.
    targets: that training compares with; None for none.
    autoencoder: makes the latents that training denoises; None for none.
  """

  needs: conditioning.Needs
  targets: conditioning.Needs | None = None
  autoencoder: autoencoders.Autoencoder | None = None

  @property
  def is_empty(self) -> bool:
    """Whether there is nothing to make."""
    specs = [spec for needs in self.all_needs for spec in needs.specs]
    return not specs and self.autoencoder is None

  @property
  def all_needs(self) -> list[conditioning.Needs]:
    return [one for one in (self.needs, self.targets) if one is not None]

  def shared(self, settings: DataSettings) -> "Asked":
    """The columns that several processes may make together.

    Stand-ins are trained first, and embeddings in files are only copied.
    """

    def kept(needs: conditioning.Needs) -> conditioning.Needs:
      specs = tuple(
        spec
        for spec in needs.specs
        if spec.model
        and not settings.standin
        and conditioning.STANDIN not in (spec.model, spec.location)
      )
      return dataclasses.replace(needs, specs=specs)

    targets = None if self.targets is None else kept(self.targets)
    return dataclasses.replace(self, needs=kept(self.needs), targets=targets)


def make(
  settings: DataSettings,
  asked: Asked,
  progress: types.Progress = types.no_progress,
) -> records_lib.Records | None:
  """Makes what is missing.

  Returns:
    The records, where this process has opened them: at least in process 0.

  Raises:
    errors.InputError: see `dataset.prepare`.
  """
  index, count = jax.process_index(), jax.process_count()
  records = None
  if count > 1 and agreement.is_shared(settings.records_folder):
    if index == 0:
      _make_tree(settings, progress)
    if not agreement.agree(records_lib.look_whole(settings)):
      _make_records_share(settings, asked, (index, count), progress)
      agreement.sync("the parts of the records are there")
    if index == 0:
      records = _make_records(settings, asked, progress)
    agreement.sync("the records are there")
    shared = asked.shared(settings)
    if not shared.is_empty:
      records = records or records_lib.open_records(settings)
      _make_columns_share(settings, records, shared, (index, count), progress)
    agreement.sync("the shares of the columns are there")
  if index == 0:
    _make_tree(settings, progress)
    records = records or _make_records(settings, asked, progress)
    _make_columns(settings, records, asked, progress)
  agreement.sync("the columns are there")
  return records


def make_share(
  settings: DataSettings,
  asked: Asked,
  share: tuple[int, int],
  progress: types.Progress = types.no_progress,
) -> str:
  """Makes a share of what is missing, beside processes that do not know each other.

  Records first: the process that finds all parts of them joins them. `make` joins the
  columns.

  Args:
    share: (p, n): the pth of n shares.

  Returns:
    One line for the user: what is still missing, and the next command.
  """
  _make_tree(settings, progress)
  missing = _make_records_share(settings, asked, share, progress)
  mine = f"share {share[0]} of {share[1]}"
  if missing:
    return (
      f"{mine} of the records is made; {missing} of their parts are not: when the other"
      " shares are done, repeat this command for the columns"
    )
  records = _make_records(settings, asked, progress)
  _make_columns_share(settings, records, asked.shared(settings), share, progress)
  return (
    f"{mine} is made: when the other shares are done, the same command without --shard"
    " joins them"
  )


def _make_tree(settings: DataSettings, progress: types.Progress) -> None:
  if settings.phantom_images:
    with _alone(settings, ["records"]):
      phantom.make_tree(
        settings.root,
        num_images=settings.phantom_images,
        size=settings.image_size,
        seed=settings.phantom_seed,
        visits=settings.phantom_visits,
        progress=progress,
      )


def _make_records_share(
  settings: DataSettings,
  asked: Asked,
  share: tuple[int, int],
  progress: types.Progress,
) -> int:
  moved.settle(settings)
  with _alone(settings, _locks_of_records(settings, f"records-{_name(share)}")):
    return records_lib.prepare_shard(
      settings, share, needs_reports=_needs_reports(settings, asked), progress=progress
    )


def _make_records(
  settings: DataSettings, asked: Asked, progress: types.Progress
) -> records_lib.Records:
  """Makes what is missing. A second process waits, then finds what the first made."""
  # First, so that all processes wait for the same lock.
  moved.settle(settings)
  with _alone(settings, _locks_of_records(settings, "records")):
    return records_lib.prepare_records(
      settings, needs_reports=_needs_reports(settings, asked), progress=progress
    )


def _needs_reports(settings: DataSettings, asked: Asked) -> bool:
  # Embeddings that are files of the dataset have no model, and need no text.
  specs = asked.needs.specs
  encodes_texts = any(spec.source == "text" and spec.model for spec in specs)
  return settings.prompts == "report" and encodes_texts


def _make_columns_share(
  settings: DataSettings,
  records: records_lib.Records | None,
  shared: Asked,
  share: tuple[int, int],
  progress: types.Progress,
) -> None:
  # A process without records is refused later, when it opens them.
  if records is not None:
    records = dataclasses.replace(records, share=share)
    _make_columns(settings, records, shared, progress)


def _make_columns(
  settings: DataSettings,
  records: records_lib.Records,
  asked: Asked,
  progress: types.Progress,
) -> None:
  """Makes the columns, or the records' share of them."""
  parts = encoders.parts(settings, asked.all_needs)
  if asked.autoencoder is not None:
    parts.add(latent_columns.NAME)
  suffix = f"-{_name(records.share)}" if records.share[1] > 1 else ""
  with _alone(settings, [f"{part}{suffix}" for part in parts]):
    for needs in asked.all_needs:
      encoders.make(settings, records, needs, progress)
    if asked.autoencoder is not None:
      latent_columns.make(settings, records, asked.autoencoder, progress)


@contextlib.contextmanager
def _alone(settings: DataSettings, names: Sequence[str]) -> Iterator[None]:
  """Waits until no other process makes what is named."""
  with contextlib.ExitStack() as stack:
    # In one order, so that no two processes wait for each other.
    for name in sorted(names):
      stack.enter_context(locks.make_alone(settings.records_folder, name))
    yield


def _locks_of_records(settings: DataSettings, name: str) -> list[str]:
  # Where there is no dataset, no folder is made for its records.
  return [name] if settings.exists or settings.phantom_images else []


def _name(share: tuple[int, int]) -> str:
  return f"{share[0]}-of-{share[1]}"
