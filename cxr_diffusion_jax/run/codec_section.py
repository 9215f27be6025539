"""The section `codec` of a config.

config.codec --build--> (statistics of the data) -> Codec, and its autoencoder

  name='pixel'
  name='haar'   levels, loss_power
  name='kl'     folder, posterior, scaling_factor
"""

from collections.abc import Callable
import dataclasses
import math

from cxr_diffusion_jax import artifacts, errors
from cxr_diffusion_jax.encoders.latents import autoencoders
from cxr_diffusion_jax.models import codec as codec_lib
from cxr_diffusion_jax.models import kl_codec
from cxr_diffusion_jax.run import sections

# Values of `scaling_factor` other than numbers: the autoencoder's own, and one over the
# standard deviation of the training images' latents.
OWN, MEASURED = "own", "measured"


@dataclasses.dataclass(frozen=True, kw_only=True)
class CodecSection:
  """A checked section.

  Attributes:
    make: statistics of the data -> codec; {} gives a codec of the right shapes.
    autoencoder: makes the latents of the codec's column; None for none.
  """

  make: Callable[[artifacts.JsonMapping], codec_lib.Codec]
  autoencoder: autoencoders.Autoencoder | None = None


def build(section: artifacts.JsonMapping) -> CodecSection:
  """Reads the section.

  Raises:
    errors.InputError: an unknown name or key, a value out of range, or a missing
      autoencoder.
  """
  section = dict(section)
  name = section.pop("name", "")
  if name == "pixel":
    sections.check_keys("config.codec", section, ())
    return CodecSection(
      make=lambda statistics: codec_lib.Pixel(mode_variance=_mode(statistics, "0"))
    )
  if name == "haar":
    return CodecSection(make=_haar(section))
  if name == "kl":
    return _kl(section)
  raise errors.InputError(f"config.codec.name={name!r}", "pixel, haar or kl")


def _haar(
  section: artifacts.JsonMapping,
) -> Callable[[artifacts.JsonMapping], codec_lib.Codec]:
  sections.check_keys("config.codec", section, ("levels", "loss_power"))
  levels, loss_power = section.get("levels", 2), section.get("loss_power", 1.0)
  errors.require_range("config.codec.levels", levels, 0)
  if not math.isfinite(loss_power):
    raise errors.InputError(f"config.codec.loss_power={loss_power}", "finite")

  def make(statistics: artifacts.JsonMapping) -> codec_lib.Codec:
    # Until the records are read, only shapes matter.
    unit = {"mean": (0.0,) * 4**levels, "std": (1.0,) * 4**levels}
    known = statistics.get("haar", {str(levels): unit})
    if str(levels) not in known:
      raise errors.InputError(
        f"config.codec.levels={levels}", f"one of {', '.join(known)}, as measured"
      )
    return codec_lib.Haar(
      levels=levels,
      mean=tuple(known[str(levels)]["mean"]),
      std=tuple(known[str(levels)]["std"]),
      loss_power=loss_power,
      mode_variance=_mode(statistics, str(levels)),
    )

  return make


def _kl(section: artifacts.JsonMapping) -> CodecSection:
  if "levels" in section:
    raise errors.InputError(
      "config.codec.name=kl in a config of wavelets",
      "a section with folder, posterior and scaling_factor",
      "put kl_ before the size, as in configs/elixr_c.py:kl_small",
    )
  known = ("folder", "posterior", "scaling_factor")
  sections.check_keys("config.codec", section, known)
  if not section.get("folder"):
    raise errors.InputError(
      "config.codec without folder",
      f"a folder of an autoencoder, or an id such as {autoencoders.DEFAULT!r}",
    )
  scaling = _scaling(section.get("scaling_factor", OWN))
  posterior = section.get("posterior", "sample")
  autoencoder = autoencoders.find(section["folder"])

  def make(statistics: artifacts.JsonMapping) -> codec_lib.Codec:
    if isinstance(scaling, float):
      factor = scaling
    elif scaling == OWN:
      factor = autoencoder.network.scaling_factor
    else:
      factor = 1.0 / _spread(statistics)
    return kl_codec.Kl(
      autoencoder=autoencoder.network,
      load_params=lambda: autoencoder.params,
      scaling_factor=factor,
      shift_factor=autoencoder.network.shift_factor,
      posterior=posterior,
      mode_variance=factor**2 * _mode(statistics, kl_codec.COLUMN),
    )

  # Fail on wrong values before any image is encoded.
  make({})
  return CodecSection(make=make, autoencoder=autoencoder)


def _mode(statistics: artifacts.JsonMapping, code: str) -> float:
  """The first variance of `modes`; 0 if an earlier version made the statistics."""
  return next(iter(statistics.get("modes", {}).get(code, ())), 0.0)


def _scaling(given: float | str) -> float | str:
  """Reads a number, which a flag passes as text, or one of the two names."""
  if given in (OWN, MEASURED):
    return str(given)
  try:
    return float(given)
  except (TypeError, ValueError) as error:
    raise errors.InputError(
      f"config.codec.scaling_factor={given!r}", f"a number, {OWN!r} or {MEASURED!r}"
    ) from error


def _spread(statistics: artifacts.JsonMapping) -> float:
  """The standard deviation of the latents; 1 before they are encoded."""
  std = statistics.get(kl_codec.COLUMN, {"std": 1.0})["std"]
  if not std > 0:
    raise errors.InputError(
      f"latents of standard deviation {std}, which config.codec.scaling_factor"
      f"={MEASURED} cannot divide by",
      fix="check that the autoencoder is trained, or give a number",
    )
  return std
