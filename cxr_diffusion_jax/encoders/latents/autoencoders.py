"""The autoencoder named by a config: located, loaded once, run over many images.

name --resolve--> folder --interop--> network, parameters --encode--> [n h w 2z]

A name is a folder with an AutoencoderKL of diffusers, a pipeline with one in `vae`, a
run of `train_autoencoder`, or a hub id of one of the first two kinds.
"""

from collections.abc import Callable
import dataclasses
import functools
import hashlib
import pathlib

from etils import epath
import jax
import jax.numpy as jnp
import numpy as np

from cxr_diffusion_jax import artifacts, disk, errors, types
from cxr_diffusion_jax.encoders import hub
from cxr_diffusion_jax.interop import diffusers as interop
from cxr_diffusion_jax.interop import safetensors_folder
from cxr_diffusion_jax.models import autoencoder as autoencoder_lib
from cxr_diffusion_jax.models import kl_codec, placement
from cxr_diffusion_jax.parallel import batches

# Has Stable Diffusion's shape, so a config that names it is built without any file.
DEFAULT = "stabilityai/sd-vae-ft-mse"

# Where `train_autoencoder` exports to, below its workdir.
OWN = "autoencoder"

# Options of the network that moments depend on.
_MOMENTS_DEPEND_ON = (
  "in_channels",
  "latent_channels",
  "block_channels",
  "num_layers",
  "norm_groups",
  "mid_attention",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Autoencoder:
  """The autoencoder named by a config; weights are read when first needed."""

  name: str
  network: autoencoder_lib.AutoencoderKL

  @functools.cached_property
  def params(self) -> types.Params:
    """Float32, on the host.

    Raises InputError if it is missing or damaged, or not what its name says.
    """
    folder = resolve(self.name)
    network, params = interop.load_autoencoder(folder)
    if network != self.network:
      raise errors.InputError(
        f"{folder} holds {network}", f"{self.network}", "download or copy it again"
      )
    return params

  @functools.cached_property
  def fingerprint(self) -> str:
    """12 hexadecimal digits that identify everything that moments depend on."""
    # Not the scaling: the column holds unscaled latents.
    shape = [getattr(self.network, name) for name in _MOMENTS_DEPEND_ON]
    digest = hashlib.sha256(repr(shape).encode())
    for path, leaf in jax.tree_util.tree_leaves_with_path(self.params):
      digest.update(jax.tree_util.keystr(path).encode())
      digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()[:12]

  @functools.cached_property
  def description(self) -> str:
    """A line that identifies the autoencoder; the same for every copy."""
    millions = sum(leaf.size for leaf in jax.tree.leaves(self.params)) / 1e6
    network = self.network
    return (
      f"KL autoencoder f{network.factor} z{network.latent_channels} {millions:.1f}M"
      f" {self.fingerprint}"
    )

  def encode(self, images: np.ndarray) -> np.ndarray:
    """Encodes grey images uint8 [n h w 1] on this host's devices.

    Returns [n h/f w/f 2z] float32, mean and logvar, unscaled.
    """
    function, num_devices = self._compiled
    return batches.in_batches(
      lambda rows: function(images[rows]),
      len(images),
      self.batch_size(images.shape[1]),
      powers=True,
      multiple=num_devices,
    )

  def batch_size(self, image_size: int) -> int:
    """Number of images of this side that this host's devices encode at once."""
    return kl_codec.rows_at_once(image_size) * jax.local_device_count()

  @functools.cached_property
  def _compiled(self) -> tuple[Callable[[np.ndarray], jax.Array], int]:
    devices = np.array(jax.local_devices())
    mesh = jax.sharding.Mesh(devices, ("rows",))
    rows, whole = (
      jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*axes))
      for axes in (("rows",), ())
    )

    @functools.partial(jax.jit, in_shardings=(whole, rows), out_shardings=rows)
    @placement.on_mesh(mesh)
    def moments(params, images):
      scaled = images.astype(jnp.float32) / 127.5 - 1.0
      return kl_codec.moments(self.network, params, scaled)

    placed = jax.device_put(self.params, whole)
    return functools.partial(moments, placed), len(devices)


def find(name: str) -> Autoencoder:
  """Finds an autoencoder and reads its shape, not its weights; `DEFAULT` needs no file.

  Raises:
    errors.InputError: the name cannot be resolved, or is not an autoencoder.
  """
  if name == DEFAULT:
    return Autoencoder(name=name, network=autoencoder_lib.AutoencoderKL())
  network, _ = interop.read_autoencoder(resolve(name))
  return Autoencoder(name=name, network=network)


def export(autoencoder: Autoencoder, workdir: artifacts.PathLike) -> None:
  """Copies a local autoencoder into a run's folder, so that it moves with the run."""
  if pathlib.Path(autoencoder.name).expanduser().is_dir():
    place = safetensors_folder.locate(resolve(autoencoder.name), "vae")
    with disk.reporting(workdir):
      artifacts.copy_files(place, epath.Path(workdir) / OWN)


def resolve(name: str) -> pathlib.Path:
  """Returns the folder of a name; raises as `hub.resolve`."""

  def local(folder: pathlib.Path) -> pathlib.Path | None:
    if (folder / OWN / safetensors_folder.CONFIG).is_file():
      return folder / OWN
    return folder if name and folder.is_dir() else None

  return hub.resolve(
    name,
    "autoencoder (config.codec.folder)",
    f"a folder with config.json and safetensors, or an id such as {DEFAULT!r}",
    "name one, or train one with `python -m cxr_diffusion_jax.train_autoencoder`",
    local=local,
    fetch=lambda: _of_hub(name),
  )


def _of_hub(name: str) -> pathlib.Path:
  """The local copy of a model on the hub, fetched where it is not whole."""
  config, weights = safetensors_folder.CONFIG, safetensors_folder.WHOLE
  for part in ("vae/", ""):
    folder = hub.cached(name, (part + config, part + weights))
    if folder is not None:
      return folder
  present = hub.files(name)
  part = "vae/" if f"vae/{config}" in present else ""
  # Other formats and the rest of a pipeline take gigabytes.
  if part + weights not in present:
    weights = f"{safetensors_folder.STEM}*.safetensors*"
  return hub.download(name, [part + config, part + weights]) / part
