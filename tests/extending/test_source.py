"""A dataset is one file: its images and labels become records."""

import numpy as np
from PIL import Image

from cxr_diffusion_jax.conditioning import base
from cxr_diffusion_jax.data.image_sets import image_set
from cxr_diffusion_jax.data.settings import DataSettings
from cxr_diffusion_jax.encoders import encoding
from cxr_diffusion_jax.run import dataset as dataset_lib
from cxr_diffusion_jax.run import recipe


def test_source_is_one_file(install, tmp_path):
  install("data/sources/list_csv.py")
  root = tmp_path / "own"
  root.mkdir()
  rng = np.random.default_rng(0)
  lines = ["file,patient,fracture,view"]
  for i in range(24):
    Image.fromarray(rng.integers(0, 256, (16, 16), np.uint8)).save(root / f"x{i}.png")
    lines.append(f"x{i}.png,{i // 2},{('1', '0', '')[i % 3]},{('PA', 'AP')[i % 2]}")
  (root / "list.csv").write_text("\n".join(lines) + "\n")
  settings = DataSettings(
    root=str(root),
    source="list_csv",
    image_size=16,
    records_dir=str(tmp_path / "records"),
    validation_fraction=0.2,
  )
  dataset = dataset_lib.prepare(settings, base.Needs())
  config = {
    "data": {"source": "list_csv"},
    "conditioning": {"name": "findings"},
  }
  conditioner, _ = recipe.conditioner_section(config)
  (stream,) = conditioner.streams
  assert (stream.num_tokens, stream.width) == (1 + 3, 2 + 15)
  assert dataset.records.vocabulary == ("Fracture",)
  num_rows = 0
  for split in dataset.splits:
    source = dataset.source(split)
    prompts = encoding.record_prompts(settings, dataset.records, split)
    groups = image_set.groups(image_set.of_records(dataset.records, split))
    for row, image_id in enumerate(dataset.ids(split)):
      i = int(image_id.removeprefix("x"))
      example = source[row]
      np.testing.assert_array_equal(example["findings"], [(1, 0, np.nan)[i % 3]])
      assert example["view"] == i % 2
      assert ("fracture" in prompts[row]) == groups["finding: Fracture"][row]
      assert groups["finding: Fracture"][row] == (i % 3 == 0)
      with Image.open(root / f"{image_id}.png") as image:
        np.testing.assert_array_equal(example["image"][..., 0], np.asarray(image))
      num_rows += 1
  assert num_rows == 24
