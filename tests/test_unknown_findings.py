"""Google's subset from files to tokens, prompts and losses: unknown stays unknown."""

import io

from etils import epath
import jax
import numpy as np
from PIL import Image
import pytest

from cxr_diffusion_jax.conditioning import findings
from cxr_diffusion_jax.data import csv_text, labels, pipeline, prompts
from cxr_diffusion_jax.data.download import google_subset
from cxr_diffusion_jax.data.image_sets import image_set
from cxr_diffusion_jax.data.records import records as records_lib
from cxr_diffusion_jax.data.sources import nih
from cxr_diffusion_jax.encoders import encoding
from cxr_diffusion_jax.encoders.probes import probe_fit
from cxr_diffusion_jax.run import recipe
from tests.data.record_settings import RecordSettings
from tests.prompt_reader import findings_of

COLUMNS = (
  *("AIRSPACE_OPACITY", "FRACTURE", "PNEUMOTHORAX", "CONSOLIDATION", "EFFUSION"),
  *("PULMONARY_EDEMA", "ATELECTASIS", "CARDIOMEGALY"),
)

# Patient -> cells: an opacity and a fracture; nothing known but one; a full negative.
ROWS = {
  1: ("1", "1", "0", "0", "0", "0", "0", "0"),
  2: ("", "", "0", "", "", "", "", ""),
  3: ("0",) * 8,
  4: ("", "0", "1", "0", "1", "0", "0", "0"),
}


@pytest.fixture
def settings(tmp_path) -> RecordSettings:
  """The subset as Google publishes it, unpacked; two images of each row above."""
  lines, entries = [",".join(("image_id", *COLUMNS))], {}
  for patient, cells in ROWS.items():
    for number in range(2):
      stem = f"{patient:08d}_{number:03d}"
      lines.append(",".join((stem, *cells)))
      content = io.BytesIO()
      grey = Image.new("RGB", (16, 16), (40 * patient + number,) * 3)
      grey.save(content, format="WEBP", lossless=True)
      entries[stem] = np.frombuffer(content.getvalue(), np.uint8)
  np.savez(tmp_path / "thumbnails.npz", **entries)
  (tmp_path / "labels.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
  root = tmp_path / "tree"
  google_subset.unpack(tmp_path / "thumbnails.npz", tmp_path / "labels.csv", root)
  return RecordSettings(
    root=str(root),
    folder=tmp_path / "records",
    image_size=16,
    split="hash",
    validation_fraction=0,
  )


def test_google_subset_keeps_what_is_unknown_from_files_to_losses(settings):
  assert len(records_lib.vocabulary(settings)) == 8
  plain = {"conditioning": {"name": "findings"}}
  plain["data"] = {"root": settings.root, "source": "nih", "image_size": 16}
  # The network is built before the data are prepared.
  made, _ = recipe.conditioner_section(plain)
  assert made.streams[0].num_tokens == 8 + 3
  prepared = records_lib.prepare_records(settings)
  assert prepared.vocabulary == records_lib.vocabulary(settings)
  assert prepared.vocabulary[6:] == ("Airspace_Opacity", "Fracture")
  splits = [split for split, num in prepared.num_rows.items() if num]
  stated, texts, masks = {}, {}, {}
  conditioner = findings.Conditioner(shape=(8,))
  for split in splits:
    fields = prepared.fields(split)
    for name, row in zip(fields["id"], fields["findings"], strict=True):
      stated[str(name)[:8]] = labels.text_of(row, prepared.vocabulary)
    for name, text in zip(
      fields["id"], encoding.record_prompts(settings, prepared, split), strict=True
    ):
      texts[str(name)[:8]] = text
    source = pipeline.JoinedSource(prepared, split)
    (stream,) = conditioner(source.batch(range(len(source))))
    for name, mask in zip(fields["id"], np.asarray(stream.mask), strict=True):
      masks[str(name)[:8]] = mask[:8].sum()
  first, second, third, fourth = (f"{patient:08d}" for patient in ROWS)
  assert stated[first] == "Airspace_Opacity|Fracture"
  assert stated[third] == labels.NO_FINDING
  assert stated[fourth] == "Effusion|Pneumothorax|Airspace_Opacity=?"
  assert (masks[first], masks[second], masks[fourth]) == (8, 1, 7)
  assert findings_of(texts[first]) == ("Airspace_Opacity", "Fracture")
  negated = prompts.phrasings()["none"]
  said = {name for name, text in texts.items() if any(x in text for x in negated)}
  assert said == {third}
  _check_loss_and_groups(prepared, splits)


def _check_loss_and_groups(prepared: records_lib.Records, splits: list[str]) -> None:
  """No gradient of what is unknown; one group of full negatives."""
  sets = [image_set.of_records(prepared, split) for split in splits]
  rows = np.concatenate([images.labels["findings"] for images in sets])
  gradient = jax.grad(probe_fit.findings_loss)(
    np.ones(rows.shape, np.float32), rows.astype(np.float32), np.ones(8, np.float32)
  )
  np.testing.assert_array_equal(np.asarray(gradient) == 0, np.isnan(rows))
  none = np.concatenate([image_set.groups(x)["finding: No Finding"] for x in sets])
  names = np.concatenate([images.ids for images in sets])
  assert {name[:8] for name in names[none]} == {"00000003"}


def test_unpack_rewrites_tables_in_which_unknown_was_absent(settings, tmp_path):
  path = tmp_path / "tree" / "Data_Entry_2017.csv"
  now = path.read_text(encoding="utf-8")
  # As an earlier version wrote them: six findings, without the last column.
  rows = [line.split(",")[:-1] for line in now.splitlines()]
  for row in rows[1:]:
    row[1] = row[1].replace("Airspace_Opacity|Fracture", "") or labels.NO_FINDING
  path.write_text(csv_text.csv_text(rows), encoding="utf-8")
  table = nih.read_table(epath.Path(settings.root), image_size=16)
  assert table.vocabulary == nih.VOCABULARY
  (note,) = table.notes
  assert "takes unknown findings as absent" in note
  given = tmp_path / "thumbnails.npz", tmp_path / "labels.csv"
  google_subset.unpack(*given, tmp_path / "tree")
  assert path.read_text(encoding="utf-8") == now
  assert not nih.read_table(epath.Path(settings.root), image_size=16).notes
