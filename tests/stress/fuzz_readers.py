"""The formats that `fuzz.py` mutates: small valid trees, and what reads them.

SEEDS[name]() -> trees (file -> bytes, the file to mutate)     READERS[name](folder)
"""

from collections.abc import Callable, Iterable, Mapping
import dataclasses
import io
import json
import pathlib
import struct
import tarfile
import tempfile
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from tests.fixtures import corpora

if TYPE_CHECKING:
  from cxr_diffusion_jax.data.settings import DataSettings

TESTS = pathlib.Path(__file__).resolve().parents[1]
VERSIONS, ENCODERS = TESTS / "versions", TESTS / "encoders"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tree:
  """A valid tree, of which one file is mutated.

  Attributes:
    files: path in the tree -> content. JSON and folders have no checksums of ours, as
      those of earlier versions: with them, no mutation would be read any further.
    target: the path of the file to mutate.
    finish_fn: what is done to the files after the mutation.
  """

  files: Mapping[str, bytes]
  target: str
  finish_fn: Callable[[dict[str, bytes]], dict[str, bytes]] = lambda files: files


def _of_folder(folder: pathlib.Path, **options) -> list[Tree]:
  """The files of a folder; each is a target in turn."""
  paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
  files = {str(path.relative_to(folder)): path.read_bytes() for path in paths}
  files = _without_checksums(files)
  return [Tree(files=files, target=name, **options) for name in files]


def _without_checksums(files: Mapping[str, bytes]) -> dict[str, bytes]:
  from cxr_diffusion_jax import checked_files, checksums

  kept = {}
  for name, content in files.items():
    if name.endswith(".json"):
      values = json.loads(content)
      if isinstance(values, dict) and values.pop(checked_files.CHECKSUM, None):
        content = json.dumps(values, indent=2).encode()
    if not name.endswith(checksums.FILE):
      kept[name] = content
  return kept


def _grey(side: int = 12) -> np.ndarray:
  y, x = np.mgrid[:side, :side]
  return (255 * (x + y) / (2 * side - 2)).astype(np.uint8)


def _csv() -> list[Tree]:
  import pyarrow
  from pyarrow import parquet

  rows = [
    "00000001_000.png,Edema|Effusion,0,1,058Y,M,PA,2682,2749,0.143,0.171,",
    "00000002_003.png,No Finding,3,2,41,F,AP,2682,2749,0.143,0.171,",
    "00000003_000.png,Mass,0,3,63,F,AP,2682,2749,0.143,0.171,",
  ]
  header = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,"
    "View Position,OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],"
  )
  names = [row.split(",")[0] for row in rows]
  nih = {
    "Data_Entry_2017.csv": "\n".join([header, *rows]),
    "BBox_List_2017.csv": "Image Index,Finding Label,Bbox [x,y,w,h],,,\n"
    "00000003_000.png,Mass,225.08,547.01,86.7,79.1,,,\n",
    "train_val_list.txt": "\n".join(names[:2]),
    "test_list.txt": names[2],
    "google-labels/test_labels.csv": "Image Index,Fracture,Pneumothorax,"
    "Airspace opacity,Nodule or mass\n00000003_000.png,NO,YES,NO,NO\n",
  }
  files = {name: text.encode() for name, text in nih.items()}
  # No image is opened.
  files |= {f"images/{name}": b"" for name in names}
  own = (
    "image;patient;findings;age;sex;view;split\r\n"
    '"a.png";P1;"Effusion|Mass";58;F;PA;train\r\n"b.png";P2;No Finding;;M;AP;test\r\n'
  )
  folder = {"labels.csv": own.encode("utf-16"), "a.png": b"", "b.png": b""}
  sources = [("nih", files, name) for name in nih]
  sources += [("table", folder, "labels.csv")]
  columns = {
    "image": ["a.png", "b.png"],
    "findings": [["Mass"], []],
    "age": [1.5, None],
  }
  file = io.BytesIO()
  parquet.write_table(pyarrow.table(columns), file)
  images = {"a.png": b"", "b.png": b""}
  sources += [("table", {"x.parquet": file.getvalue(), **images}, "x.parquet")]
  with tempfile.TemporaryDirectory() as place:
    for source, write in [
      ("chexpert", corpora.write_chexpert),
      ("mimic_cxr", corpora.write_mimic_cxr),
      ("padchest", corpora.write_padchest),
      ("vindr", corpora.write_vindr),
    ]:
      root = write(pathlib.Path(place))
      paths = [path for path in root.rglob("*") if path.is_file()]
      files = {str(path.relative_to(root)): path.read_bytes() for path in paths}
      texts = [name for name in files if name.endswith((".csv", ".csv.gz", ".txt"))]
      sources += [(source, files, name) for name in texts]
  return [
    Tree(
      files={f"{source}/{key}": x for key, x in files.items()},
      target=f"{source}/{name}",
    )
    for source, files, name in sources
  ]


def _read_csv(folder: pathlib.Path) -> None:
  from cxr_diffusion_jax.data import dataset_table
  from cxr_diffusion_jax.data.settings import DataSettings

  (root,) = folder.iterdir()
  views = "PA,AP,unknown,lateral"
  dataset_table.read_table(
    DataSettings(root=str(root), source=root.name, image_size=8, views=views)
  )


def _png() -> list[Tree]:
  from PIL import Image, PngImagePlugin

  image = Image.fromarray(_grey(40))
  text = PngImagePlugin.PngInfo()
  text.add_text("phantom", json.dumps({"seed": 1}), zip=True)
  palette = image.convert("P")
  exif = Image.Exif()
  exif[0x0112] = 6
  pictures = [
    ("a.png", image, {"pnginfo": text}),
    ("a.png", Image.fromarray(_grey(40).astype(np.uint16) * 16), {}),
    ("a.png", image.convert("RGBA"), {"dpi": (300, 300)}),
    ("a.png", palette, {"transparency": bytes(range(256))}),
    ("a.png", image.convert("1"), {}),
    ("a.jpg", image, {"exif": exif, "quality": 90}),
    ("a.jpg", image.convert("RGB"), {"progressive": True}),
  ]
  trees = []
  for name, picture, options in pictures:
    file = io.BytesIO()
    picture.save(file, format="PNG" if name.endswith("png") else "JPEG", **options)
    trees.append(Tree(files={name: file.getvalue()}, target=name))
  return trees


def _read_png(folder: pathlib.Path) -> None:
  from cxr_diffusion_jax.data import images, reference
  from cxr_diffusion_jax.data.image_sets import folder as image_folder

  (path,) = folder.iterdir()
  _all_of(
    lambda: images.resize(images.read_grey(path), 8),
    lambda: reference.read_reference(path),
    lambda: image_folder.read(folder).images[0],
  )


def _dicom() -> list[Tree]:
  from PIL import Image
  import pydicom
  import pydicom.encaps
  import pydicom.uid

  values = _grey(40).astype(np.uint16) * 16

  def lut(depth: int) -> pydicom.Sequence:
    item = pydicom.Dataset()
    item.add_new("LUTDescriptor", "US", [4096, 0, depth])
    item.add_new("LUTData", "US", (np.arange(4096) * (2**depth - 1) // 4095).tolist())
    return pydicom.Sequence([item])

  def write(pixels: bytes = b"", syntax=pydicom.uid.ExplicitVRLittleEndian, **elements):
    meta = pydicom.dataset.FileMetaDataset()
    meta.TransferSyntaxUID = syntax
    meta.MediaStorageSOPClassUID = pydicom.uid.DigitalXRayImageStorageForPresentation
    meta.MediaStorageSOPInstanceUID = "1.2.3"
    dataset = pydicom.Dataset()
    dataset.file_meta = meta
    dataset.SOPClassUID, dataset.SOPInstanceUID = meta.MediaStorageSOPClassUID, "1.2.3"
    dataset.Rows, dataset.Columns = values.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored = (8, 8) if pixels else (16, 12)
    dataset.HighBit, dataset.PixelRepresentation = dataset.BitsStored - 1, 0
    dataset.add_new("PixelData", "OB" if pixels else "OW", pixels or values.tobytes())
    for keyword, value in elements.items():
      setattr(dataset, keyword, value)
    file = io.BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    return Tree(files={"a.dcm": file.getvalue()}, target="a.dcm")

  jpeg = io.BytesIO()
  Image.fromarray(_grey(40)).save(jpeg, format="JPEG")
  return [
    write(WindowCenter=2000, WindowWidth=3000, RescaleSlope=2, RescaleIntercept=-9),
    write(VOILUTSequence=lut(8), PixelPaddingValue=0),
    write(ModalityLUTSequence=lut(12), PhotometricInterpretation="MONOCHROME1"),
    write(pydicom.encaps.encapsulate([jpeg.getvalue()]), pydicom.uid.JPEGBaseline8Bit),
  ]


def _read_dicom(folder: pathlib.Path) -> None:
  from cxr_diffusion_jax.data import dicom

  dicom.to_grey(dicom.open_dicom(folder / "a.dcm"), folder / "a.dcm")


def _h5() -> list[Tree]:
  import h5py

  names = np.array([b"00000001_000.png", b"00000002_003.png", b"00000003_000.png"])
  values = np.random.default_rng(0).normal(size=(3, 128)).astype(np.float32)
  trees = []
  for ids, key, options in [
    ("Image Index", "Embeddings", {}),
    ("image_ids", "embeddings", {"chunks": (2, 128), "compression": "gzip"}),
    ("image_ids", "contrastive_txt_emb", {"dtype": "f2"}),
  ]:
    file = io.BytesIO()
    with h5py.File(file, "w") as opened:
      opened.create_dataset(ids, data=names)
      opened.create_dataset(key, data=values, **options)
      opened.attrs["encoder"] = "of a test"
    name = "elixrb/contrastive_txt_emb/contrastive_txt_emb_1.h5"
    trees.append(Tree(files={name: file.getvalue()}, target=name))
  return trees


def _read_elixr(folder: pathlib.Path, kind: str) -> None:
  from cxr_diffusion_jax.encoders.elixr.files import reader

  files = reader.find_elixr(folder, kind)
  if files is not None:
    files.fingerprint()
    for _ in files.batches():
      pass


def _npz() -> list[Tree]:
  values = np.random.default_rng(0).normal(size=(2, 4096)).astype(np.float16)
  entries = {f"0000000{i}_000": row for i, row in enumerate(values)}
  trees = []
  for save in (np.savez, np.savez_compressed):
    file = io.BytesIO()
    save(file, **entries)
    name = "elixrb/embeddings.npz"
    trees.append(Tree(files={name: file.getvalue()}, target=name))
  return trees


def _safetensors() -> list[Tree]:
  tensors = {
    "a.weight": ("F32", [20, 30], np.arange(600, dtype="<f4").tobytes()),
    "b.weight": ("BF16", [40], np.arange(40, dtype="<u2").tobytes()),
    "c.bias": ("F16", [2, 2], np.ones(4, "<f2").tobytes()),
  }
  header, data = {"__metadata__": {"format": "pt"}}, b""
  for name, (dtype, shape, content) in tensors.items():
    place = [len(data), len(data) + len(content)]
    header[name] = {"dtype": dtype, "shape": shape, "data_offsets": place}
    data += content
  text = json.dumps(header).encode()
  whole = struct.pack("<Q", len(text)) + text + data
  name = "diffusion_pytorch_model.safetensors"
  index = {"metadata": {}, "weight_map": dict.fromkeys(tensors, name)}
  files = {f"{name}.index.json": json.dumps(index).encode(), "other": whole}
  return [
    Tree(files={name: whole}, target=name),
    Tree(files={**files, name: whole}, target=name),
  ]


def _read_safetensors(folder: pathlib.Path) -> None:
  from cxr_diffusion_jax.interop import safetensors_folder

  _all_of(
    lambda: safetensors_folder.read_shapes(folder),
    lambda: safetensors_folder.read(folder),
  )


def _json() -> list[Tree]:
  unet = {
    "_class_name": "UNet2DConditionModel",
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": [16, 32],
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "cross_attention_dim": 16,
    "attention_head_dim": [2, 4],
  }
  scheduler = {"_class_name": "DDIMScheduler", "prediction_type": "v_prediction"}
  index = {"weight_map": {"a": "x.safetensors"}}
  pipeline = {
    "unet/config.json": unet,
    "scheduler/scheduler_config.json": scheduler,
    "unet/diffusion_pytorch_model.safetensors.index.json": index,
  }
  column = {"encoder": "e", "standin": False, "fingerprint": "f", "shape": [3]}
  card = {
    "format": 2,
    "fingerprint": "f",
    "kind": "real images",
    "phantom": False,
    "vocabulary": ["Mass"],
    "image_size": 64,
    "resize": "crop",
    "num_rows": {"train": 3},
    "statistics": {"mean": 0.1},
    "columns": {"elixrc": column},
  }
  config = {"format": 2, "seed": 0, "data": {"image_size": 64, "resize": "crop"}}
  run = {"dataset.json": card, "config.json": config}
  return [
    Tree(files={key: json.dumps(x).encode() for key, x in files.items()}, target=name)
    for files in (pipeline, run)
    for name in files
  ]


def _read_json(folder: pathlib.Path) -> None:
  from cxr_diffusion_jax.interop import diffusers, options, safetensors_folder
  from cxr_diffusion_jax.run import card

  if (folder / "dataset.json").exists():
    card.read(folder)
    return
  unet = folder / "unet"
  _all_of(
    lambda: diffusers.read_fields(unet, options.UNET, options.read_unet),
    lambda: diffusers.read_prediction(folder),
    lambda: safetensors_folder.weight_files(unet),
  )


def _committed(part: str) -> list[Tree]:
  """The committed run and records; each file of `part` is a target in turn."""
  with tarfile.open(sorted(VERSIONS.glob("*.tar.gz"))[-1]) as archive:
    members = [member for member in archive.getmembers() if member.isfile()]
    files = {member.name: archive.extractfile(member).read() for member in members}
  files = _without_checksums(files)
  return [
    Tree(files=files, target=name) for name in files if name.split("/")[0] == part
  ]


def _read_run(folder: pathlib.Path) -> None:
  from cxr_diffusion_jax.run import run as run_lib

  run_lib.open_run(folder / "run")


def _records_settings(folder: pathlib.Path) -> "DataSettings":
  from cxr_diffusion_jax.data.settings import DataSettings

  records_dir = str(folder / "records")
  return DataSettings(root="/absent", records_dir=records_dir, image_size=32)


def _records() -> list[Tree]:
  """The committed records, named after a tree that is not there."""
  trees = _committed("records")
  (before,) = {name.split("/")[1] for name in trees[0].files if "records/" in name}
  after = _records_settings(pathlib.Path()).tree_folder.name
  files = {name.replace(before, after): x for name, x in trees[0].files.items()}
  return [
    Tree(files=files, target=tree.target.replace(before, after)) for tree in trees
  ]


def _read_records(folder: pathlib.Path) -> None:
  from cxr_diffusion_jax.data.records import records, store

  opened = records.open_records(_records_settings(folder))
  if opened is None:
    return
  for split, count in opened.num_rows.items():
    opened.ids(split)
    opened.fields(split)
    source = store.RecordSource(opened, split)
    for row in range(count):
      source[row]


def _encoder(place: str) -> list[Tree]:
  """The folder of a small encoder in tests/encoders; each file is a target in turn."""
  root = ENCODERS / place
  files = {
    path.name: path.read_bytes()
    for path in sorted(root.iterdir())
    if path.suffix in (".json", ".txt", ".safetensors")
  }
  return [Tree(files=files, target=name) for name in files]


def _read_clip(folder: pathlib.Path) -> None:
  from cxr_diffusion_jax.encoders.clip import model

  model.load(folder)


def _read_bert(folder: pathlib.Path) -> None:
  from cxr_diffusion_jax.encoders.bert import model

  model.load(folder)


def _probe() -> list[Tree]:
  """A small probe; of its weights, the description states the hash."""
  import hashlib

  import jax

  from cxr_diffusion_jax.encoders.probes import probe, probe_fit, probe_settings

  settings = probe_settings.ProbeSettings(widths=(4, 8), norm_groups=2)
  classifier = probe_fit.make_classifier(settings, 3)
  params = classifier.init(jax.random.key(0), np.zeros((1, 16, 16, 1), np.float32))
  weights = probe_fit.to_bytes(params["params"])

  def described(data: bytes, description: dict) -> bytes:
    weights = hashlib.sha256(data).hexdigest()
    return json.dumps({**description, "weights": weights}).encode()

  description = {
    "format": probe.FORMAT,
    "fingerprint": "f",
    "image_size": 16,
    "settings": dataclasses.asdict(settings),
    "thresholds": [0.5, None, 0.25],
    "training": {"num_steps": 2},
  }
  files = {
    probe.WEIGHTS: weights,
    probe.DESCRIPTION: described(weights, description),
  }
  return [
    Tree(files=files, target=probe.DESCRIPTION),
    Tree(
      files=files,
      target=probe.WEIGHTS,
      finish_fn=lambda new: {
        **new,
        probe.DESCRIPTION: described(new[probe.WEIGHTS], description),
      },
    ),
  ]


def _read_probe(folder: pathlib.Path) -> None:
  from cxr_diffusion_jax.encoders.probes import probe

  probe.load_probe(folder)


def _pipeline() -> list[Tree]:
  """UNet, autoencoder and scheduler, in one file of weights each and in shards."""
  import jax

  from cxr_diffusion_jax.interop import diffusers
  from cxr_diffusion_jax.models import autoencoder
  from cxr_diffusion_jax.models.denoisers import unet as unet_lib

  unet = unet_lib.UNet(
    out_channels=4,
    block_channels=(8,),
    num_layers=1,
    attention=(False,),
    num_heads=2,
    context_width=8,
    norm_groups=4,
    time_conditioning="scale_shift",
  )
  vae = autoencoder.AutoencoderKL(block_channels=(8,), norm_groups=4, num_layers=1)
  image = np.zeros((1, 4, 4, 3), np.float32)
  shapes = jax.eval_shape(vae.init, jax.random.key(0), image)["params"]
  zeros = {
    "unet": jax.tree.map(
      lambda leaf: np.zeros(leaf.shape, np.float32), diffusers.unet_shapes(unet, 4)
    ),
    "vae": jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes),
  }
  weights = "diffusion_pytorch_model.safetensors"
  with tempfile.TemporaryDirectory() as place:
    folder = pathlib.Path(place)
    diffusers.save_unet(folder / "unet", unet, zeros["unet"])
    diffusers.save_autoencoder(folder / "vae", vae, zeros["vae"])
    scheduler = {"_class_name": "DDIMScheduler", "prediction_type": "v_prediction"}
    (folder / "scheduler").mkdir()
    (folder / "scheduler/scheduler_config.json").write_text(json.dumps(scheduler))
    trees = _of_folder(folder)
    whole = (folder / "vae" / weights).read_bytes()
    header = json.loads(whole[8 : 8 + int.from_bytes(whole[:8], "little")])
    names = [name for name in header if not name.startswith("__")]
    index = {"metadata": {}, "weight_map": dict.fromkeys(names, "part.safetensors")}
    (folder / "vae" / weights).rename(folder / "vae/part.safetensors")
    (folder / "vae" / f"{weights}.index.json").write_text(json.dumps(index))
    (folder / "vae/checksums.json").unlink()
    return [
      *trees,
      *(tree for tree in _of_folder(folder) if tree.target.endswith("index.json")),
    ]


def _read_pipeline(folder: pathlib.Path) -> None:
  from cxr_diffusion_jax.interop import diffusers

  _all_of(
    lambda: diffusers.load_unet(folder),
    lambda: diffusers.load_autoencoder(folder),
    lambda: diffusers.read_prediction(folder),
  )


def _all_of(*calls: Callable[[], object]) -> None:
  """Makes all calls, and then raises the first InputError."""
  from cxr_diffusion_jax import errors

  refusals = []
  for call in calls:
    try:
      call()
    except errors.InputError as error:
      refusals.append(error)
  if refusals:
    raise refusals[0]


SEEDS: Mapping[str, Callable[[], Iterable[Tree]]] = MappingProxyType(
  {
    "csv": _csv,
    "png": _png,
    "dicom": _dicom,
    "h5": _h5,
    "npz": _npz,
    "safetensors": _safetensors,
    "json": _json,
    "run": lambda: _committed("run"),
    "records": _records,
    "probe": _probe,
    "pipeline": _pipeline,
    "clip": lambda: _encoder("clip/torch_clip"),
    "bert": lambda: [
      *_encoder("bert/torch_bert/cxr_bert"),
      *_encoder("bert/torch_bert/roberta"),
    ],
  }
)

READERS: Mapping[str, Callable[[pathlib.Path], None]] = MappingProxyType(
  {
    "csv": _read_csv,
    "png": _read_png,
    "dicom": _read_dicom,
    "h5": lambda folder: _read_elixr(folder, "contrastive_txt_emb"),
    "npz": lambda folder: _read_elixr(folder, "all_contrastive_img_emb"),
    "safetensors": _read_safetensors,
    "json": _read_json,
    "run": _read_run,
    "records": _read_records,
    "probe": _read_probe,
    "pipeline": _read_pipeline,
    "clip": _read_clip,
    "bert": _read_bert,
  }
)
