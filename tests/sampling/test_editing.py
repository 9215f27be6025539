"""Images made from images: what is read, paired, kept, measured and written."""

import dataclasses
import json

import numpy as np
from PIL import Image
import pytest

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.run import run as run_lib
from cxr_diffusion_jax.sampling import edit_inputs, editing
from cxr_diffusion_jax.sampling.request import Request


@pytest.fixture(scope="module")
def run(run_of):
  return run_of("elixr_c")


@pytest.fixture(scope="module")
def builder(builder_of):
  return builder_of("elixr_c")


@pytest.fixture(scope="module")
def ids(run) -> list[str]:
  return [str(name) for name in run.dataset.ids("test")[:3]]


@pytest.fixture
def mask(tmp_path):
  """Writes a mask whose upper part is white: `mask(size, rows) -> path`."""

  def write(size=(32, 32), rows: int = 12, name: str = "mask.png") -> str:
    values = np.zeros(size[::-1], np.uint8)
    values[:rows] = 255
    Image.fromarray(values).save(tmp_path / name)
    return str(tmp_path / name)

  return write


def _read(run, **asked) -> edit_inputs.EditInputs:
  return edit_inputs.read(run, edit_inputs.EditRequest(**asked))


def _make(run, builder, request=None, guidance=1.5, **asked) -> editing.Edited:
  changes = {"num_steps": 4, "guidance": guidance}
  asked = edit_inputs.EditRequest(**asked)
  return editing.make(run, builder, asked, request or Request(), changes=changes)


def test_edit_inputs_are_read_from_files_and_ids(run, ids, xray, mask):
  path = xray("x.png", 90, (60, 40))
  masks = mask((60, 40), 20, name="a.png"), mask()
  result = _read(run, inits=(path, ids[0]), masks=masks)
  assert result.images.shape == result.masks.shape == (2, 32, 32, 1)
  assert result.images.dtype == np.uint8
  assert result.masks.dtype == bool
  assert result.ids == ["", ids[0]]
  assert [entry["init"] for entry in result.entries] == [path, ids[0]]
  ((source, place),) = run.dataset.find([ids[0]])
  np.testing.assert_array_equal(result.images[1], source[place]["image"])


@pytest.mark.parametrize(
  ("asked", "message"),
  [
    ({"inits": ("none.png",)}, "init none.png; expected a PNG, JPEG or DICOM file"),
    ({"inits": ("{text}",)}, "cannot read the reference"),
    ({"inits": ("{id}",), "masks": ("{small}",)},
     "of 40x32 pixels; expected 32x32, the size of init"),
    ({"inits": ("{id}",), "masks": ("{black}",)}, "which leaves nothing to make"),
    ({"inits": ("{id}",), "masks": ("none.png",)}, "cannot read the reference none"),
  ],
)  # fmt: skip
def test_edit_inputs_refuse_unreadable_files(asked, message, run, ids, mask, tmp_path):
  (tmp_path / "text.png").write_text("no image")
  words = {"id": ids[0], "text": str(tmp_path / "text.png")}
  if "{small}" in str(asked):
    words["small"] = mask((40, 32))
  if "{black}" in str(asked):
    words["black"] = mask(rows=0)
  asked = {name: (value[0].format(**words),) for name, value in asked.items()}
  with pytest.raises(errors.InputError) as caught:
    _read(run, **asked)
  assert message in str(caught.value)


def test_make_keeps_known_pixels_bit_for_bit(run, builder, ids, mask, tmp_path):
  results = _make(run, builder, inits=(ids[0],), masks=(mask(),))
  images, known = results.samples.images, ~results.masks
  assert images.shape == (1, 32, 32, 1)
  np.testing.assert_array_equal(images[known], results.inits[known])
  assert (images != results.inits)[results.masks].mean() > 0.5
  editing.write(results, tmp_path)
  content = json.loads((tmp_path / "samples.json").read_text())
  (entry,) = content["samples"]
  # Without a condition given, it is what the image is itself.
  assert entry["image_id"] == entry["init"] == ids[0]
  assert content["settings"]["image_to_image"]["masked"]
  assert content["settings"]["evaluations_per_image"] == 2 * 4
  for key, value in (("init_file", results.inits), ("file", images)):
    with Image.open(tmp_path / entry[key]) as image:
      np.testing.assert_array_equal(np.asarray(image), value[0, ..., 0])
  with Image.open(tmp_path / entry["mask_file"]) as image:
    np.testing.assert_array_equal(np.asarray(image) > 0, results.masks[0, ..., 0])


def test_editing_works_from_the_command(
  run, ids, mask, run_main, monkeypatch, tmp_path
):
  monkeypatch.setattr(run_lib, "open_run", lambda *_, **__: run)
  ended = run_main(
    "sample", f"--workdir={tmp_path}", f"--init={ids[0]}", f"--mask={mask()}",
    "--num_steps=4", "--per_condition=1",
  )  # fmt: skip
  assert ended.code == 0, ended.err
  assert "inpainted, strength 1, 8 evaluations each" in ended.out
  (out,) = (tmp_path / "generated").iterdir()
  assert out.name.endswith("_edit")
  content = json.loads((out / "samples.json").read_text())
  assert content["samples"][0]["init"] == ids[0]
  assert (out / "pairs.png").is_file()


def test_make_pairs_one_to_one_or_one_to_many(run, builder, ids):
  several = Request(image_ids=tuple(ids))
  one = _make(run, builder, several, inits=(ids[2],), strength=0.5)
  assert [entry["image_id"] for entry in one.samples.entries] == ids
  assert {entry["init"] for entry in one.samples.entries} == {ids[2]}
  each = _make(run, builder, several, inits=tuple(ids), strength=0.5)
  assert [entry["init"] for entry in each.samples.entries] == ids
  np.testing.assert_array_equal(each.inits[2], one.inits[0])
  np.testing.assert_array_equal(each.samples.images[2], one.samples.images[2])
  with pytest.raises(errors.InputError, match="2 images with 3 conditions; expected"):
    _make(run, builder, several, inits=tuple(ids[:2]))


def test_make_reports_the_round_trip(run, builder, ids, tmp_path):
  request = Request(image_ids=(ids[1],))
  results = _make(run, builder, request, 1.0, inits=(ids[0],), invert=True, repeats=2)
  (entry,) = results.samples.entries
  assert entry["source"] == "its own condition"
  lost = entry["round_trip"]
  error = results.round_trips[0].astype(float) - results.inits[0]
  assert lost["mean_abs_grey_levels"] == pytest.approx(np.abs(error).mean())
  assert lost["psnr_db"] == pytest.approx(20 * np.log10(255 / error.std(ddof=0)), abs=3)
  # 4 steps twice there, and once back.
  assert results.samples.settings["evaluations_per_image"] == 4 * 2 + 4
  assert lost["evaluations"] == 4 * 2 + 4
  assert results.summary[0].startswith("round trip without a change: PSNR ")
  editing.write(results, tmp_path)
  content = json.loads((tmp_path / "samples.json").read_text())
  whole = content["settings"]["image_to_image"]["round_trip"]
  assert whole["psnr_db"] == lost["psnr_db"]
  with Image.open(tmp_path / "pairs.png") as image:
    # Init, condition, generated, difference and round trip, one below the other.
    assert image.height > 5 * 128


def test_make_uses_the_file_as_its_own_reference(run, builder, encoder, xray, ids):
  path = xray("x.png", 90)
  results = _make(run, builder, None, 1.0, inits=(path,), invert=True, repeats=2)
  (entry,) = results.samples.entries
  assert entry["reference"] == entry["init"] == path
  assert entry["source"] == "no condition"
  result = _read(run, inits=(path, ids[0]))
  with pytest.raises(errors.InputError, match="init without a condition; expected"):
    edit_inputs.request_of(Request(), result, ("reference",))
  assert edit_inputs.request_of(Request(unconditional=True), result, ()).unconditional


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    (["--mask=m.png"], "--mask without --init"),
    (["--strength=0.5"], "--strength without --init"),
    (["--init=x.png", "--strength=1.5"], "strength 1.5; expected above 0, at most 1"),
    (["--init=x.png", "--strength=0"], "strength 0; expected above 0"),
    (["--init=x.png", "--mask=m.png", "--invert"], "invert with mask"),
    (["--init=x.png", "--grid=num_steps=1,2"], "--init with --grid"),
    (["--init=x.png", "--mask=a.png", "--mask=b.png"], "2 masks of 1 images"),
  ],
)
def test_editing_reports_wrong_flags_before_opening_a_run(
  flags, message, run_main, tmp_path
):
  ended = run_main("sample", f"--workdir={tmp_path}", *flags)
  assert message in ended.complaint


def test_make_reports_wrong_settings_before_encoding(run, builder, ids, monkeypatch):
  monkeypatch.setattr(type(builder), "build", lambda *_: pytest.fail("too late"))
  asked = edit_inputs.EditRequest(inits=(ids[0],), strength=0.1)
  with pytest.raises(errors.InputError, match="of 4 steps, which is no step"):
    editing.make(run, builder, asked, Request(), changes={"num_steps": 4})
  inverted = dataclasses.replace(asked, strength=None, invert=True)
  with pytest.raises(errors.InputError, match="'ddpm', which makes fresh noise"):
    editing.make(run, builder, inverted, Request(), changes={"sampler": "ddpm"})
