"""Synthetic datasets: quotas, rejections, kills, shards, and the written tree."""

from concurrent import futures
import csv
import dataclasses
import json
import os
import pathlib
import re
import signal
import subprocess
import sys

from etils import epath
import numpy as np
from PIL import Image
import pytest

from cxr_diffusion_jax import artifacts, errors
from cxr_diffusion_jax.data.image_sets import image_set
from cxr_diffusion_jax.data.sources import nih, table
from cxr_diffusion_jax.sampling import conditions
from cxr_diffusion_jax.synthesis import balance, tree
from cxr_diffusion_jax.synthesis import dataset as dataset_lib
from cxr_diffusion_jax.synthesis import production as production_lib
from cxr_diffusion_jax.synthesis.acceptance import AcceptanceJudge
from cxr_diffusion_jax.synthesis.plan import Plan, Quota

PLAN = Plan(
  quotas=(
    Quota(num=4, findings=("Effusion", "Mass"), sex="F", ages=(40, 59), view="AP"),
    Quota(num=3, findings=(), ages=(63, 63)),
    Quota(num=3, findings=("Effusion",), sex="M", view="PA"),
  )
)


@pytest.fixture(autouse=True)
def drawn(monkeypatch) -> list[np.ndarray]:
  """Images that hold their number and draw; the numbers of each call."""
  calls = []

  def generate(self, params, fields, *, seed, numbers, batch_size):
    del self, params
    calls.append(numbers)
    assert len(numbers) == batch_size
    assert all(len(value) == batch_size for value in fields.values())
    images = np.zeros((len(numbers), 32, 32, 1), np.uint8)
    images[:, 0, 0, 0] = numbers % dataset_lib.STRIDE
    images[:, 0, 1, 0] = numbers // dataset_lib.STRIDE
    images[:, 1] = seed
    return images

  monkeypatch.setattr(dataset_lib.generate_lib.Generator, "generate", generate)
  monkeypatch.setattr(dataset_lib.image_parts, "weights_digest", lambda _: "ab" * 32)
  monkeypatch.setattr(dataset_lib, "PART_SIZE", 4)
  return calls


@pytest.fixture
def make(builder_of, tmp_path):
  """Makes a dataset: `make("name", shard=(0, 2), seed=1) -> Outcome`."""

  def make(
    name: str,
    *,
    plan=PLAN,
    path="findings",
    run=None,
    shard=(0, 1),
    judges=(),
    **changes,
  ):
    out = name if "://" in name else tmp_path / name
    dataset = dataset_lib.prepare(
      run or builder_of(path).run,
      plan,
      out,
      open_judges_fn=lambda: judges,
      **{"batch_size": 2, **changes},
    )
    return production_lib.make(dataset, shard=shard)

  return make


def _judge(needed) -> AcceptanceJudge:
  """Accepts image i in draw `needed(i)` and later."""

  def score_fn(images):
    return np.array([[one[0, 1, 0] >= needed(int(one[0, 0, 0]))] for one in images])

  return AcceptanceJudge(
    title="brightness",
    fingerprint="f",
    names=("Effusion",),
    score_fn=score_fn,
    low=np.array([0.5]),
    high=np.array([np.nan]),
    real_rate=0.75,
  )


def _files(folder: pathlib.Path) -> dict[str, bytes]:
  return {
    path.relative_to(folder).as_posix(): path.read_bytes()
    for path in folder.rglob("*")
    if path.is_file()
  }


def test_make_fills_quotas_and_writes_a_tree_that_reads_back(make, tmp_path):
  outcome = make("out")
  assert outcome.remaining_parts == 0
  assert outcome.short == ()
  read = nih.read_table(epath.Path(tmp_path / "out"), image_size=32)
  assert read.num_unlisted == 0
  effusion, mass = (read.vocabulary.index(name) for name in ("Effusion", "Mass"))
  expected = np.zeros((10, 14))
  expected[:4, [effusion, mass]] = 1
  expected[7:, effusion] = 1
  np.testing.assert_array_equal(read.findings, expected)
  assert read.sex.tolist() == [0] * 4 + [-1] * 3 + [1] * 3
  assert read.view.tolist() == [1] * 4 + [-1] * 3 + [0] * 3
  assert ((read.age[:4] >= 40) & (read.age[:4] <= 59)).all()
  assert read.age[4:7].tolist() == [63] * 3
  assert np.isnan(read.age[7:]).all()
  assert read.patient.tolist() == [90_000_001 + number for number in range(10)]
  assert read.id[0] == "90000001_000"


def test_make_marks_every_image_as_synthetic(make, tmp_path):
  make("out", seed=7)
  for number, path in enumerate(sorted((tmp_path / "out/original").iterdir())):
    with Image.open(path) as image:
      facts = json.loads(image.text["synthetic"])
      assert image.mode == "L"
    assert (facts["seed"], facts["number"], facts["checkpoint_step"]) == (7, number, 3)
    assert facts["weights"] == "ab" * 8
  assert facts["findings"] == ["Effusion"]
  manifest = artifacts.read_json(tmp_path / "out/manifest.json")
  assert manifest["synthetic"] is True
  assert len(manifest["sha256"]) == 14


def test_make_rejects_counts_and_redraws(make, drawn, tmp_path):
  judge = _judge(lambda number: number % 3)
  outcome = make("out", judges=[judge])
  assert outcome.short == ()
  draws = {entry.number: entry.draw for entry in outcome.whole.entries}
  # The judge does not object where no effusion was asked for.
  asked = {*range(4), *range(7, 10)}
  assert draws == {n: n % 3 if n in asked else 0 for n in range(10)}
  assert outcome.whole.rejected == {0: 3, 2: 3}
  assert outcome.whole.objections == {"Effusion missed": 6}
  pixels = np.asarray(Image.open(tmp_path / "out/original/90000003_000.png"))
  assert pixels[0, :2].tolist() == [2, 2]
  assert max(max(numbers) for numbers in drawn) < 2**31
  sheet = (tmp_path / "out/datasheet.md").read_text()
  assert "| Effusion + Mass, F, 40-59, AP | 4 | 4 | 3 |" in sheet
  assert "6 of 16 images were rejected" in sheet
  assert "brightness (fingerprint f), which accepts 75% of the real" in sheet
  assert "| Effusion | 7 | 7 | 6 |\n| Mass | 4 | 4 | 3 |" in sheet
  assert "Do not evaluate these images" in sheet


def test_make_ends_where_a_quota_cannot_be_filled(make, drawn, tmp_path):
  judge = _judge(lambda number: 99 if number == 8 else 0)
  outcome = make("out", judges=[judge], max_draws=3)
  assert outcome.short == (("Effusion, M, PA", 1),)
  assert sum(8 in numbers % dataset_lib.STRIDE for numbers in drawn) == 3
  assert len(nih.read_table(epath.Path(tmp_path / "out"), image_size=32)) == 9
  calls = len(drawn)
  assert make("out", judges=[judge], max_draws=3).short == outcome.short
  assert len(drawn) == calls


def test_make_killed_at_any_write_is_resumed_to_the_same_bytes(
  make, monkeypatch, tmp_path
):
  judges = [_judge(lambda number: number % 2)]
  make("whole", judges=judges)
  whole, write = _files(tmp_path / "whole"), artifacts.write_bytes
  finished = False
  for kill_at in range(40):
    count = 0

    def dying(path, content, kill_at=kill_at):
      nonlocal count
      count += 1
      if count > kill_at:
        raise KeyboardInterrupt
      write(path, content)

    monkeypatch.setattr(artifacts, "write_bytes", dying)
    try:
      make(f"killed-{kill_at}", judges=judges)
      finished = True
      break
    except KeyboardInterrupt:
      pass
    monkeypatch.setattr(artifacts, "write_bytes", write)
    make(f"killed-{kill_at}", judges=judges)
    assert _files(tmp_path / f"killed-{kill_at}") == whole
  assert finished
  assert kill_at > 15


def test_make_stops_at_a_signal_and_resumes(make, drawn, monkeypatch, tmp_path):
  make("whole")
  generate = dataset_lib.generate_lib.Generator.generate

  def signalled(self, *arguments, **more):
    if 5 in more["numbers"]:
      os.kill(os.getpid(), signal.SIGTERM)
    return generate(self, *arguments, **more)

  monkeypatch.setattr(dataset_lib.generate_lib.Generator, "generate", signalled)
  with pytest.raises(errors.Interrupted, match="4 of 10 images are saved") as caught:
    make("out")
  assert caught.value.signal_number == signal.SIGTERM
  monkeypatch.setattr(dataset_lib.generate_lib.Generator, "generate", generate)
  drawn.clear()
  make("out")
  assert np.concatenate(drawn).min() == 4
  assert _files(tmp_path / "out") == _files(tmp_path / "whole")


def test_make_refuses_a_damaged_description_of_a_part(make, tmp_path):
  make("out")
  (tmp_path / "out/parts/part_00001.json").write_text('{"missing": []}')
  with pytest.raises(errors.InputError, match=r"part_00001\.json is damaged"):
    make("out")


def test_make_remakes_images_that_were_deleted_or_damaged(make, drawn, tmp_path):
  make("whole")
  make("out")
  (tmp_path / "out/original/90000006_000.png").unlink()
  cut = tmp_path / "out/original/90000009_000.png"
  cut.write_bytes(cut.read_bytes()[:50])
  drawn.clear()
  make("out")
  assert sorted({*np.concatenate(drawn).tolist()}) == [4, 5, 6, 7, 8, 9]
  assert _files(tmp_path / "out") == _files(tmp_path / "whole")


def test_make_by_shards_equals_one_process(make, tmp_path):
  make("whole")
  assert make("out", shard=(1, 2)).remaining_parts == 2
  assert not (tmp_path / "out/datasheet.md").exists()
  with pytest.raises(errors.InputError, match=r"not finished.* each of its shards"):
    nih.read_table(epath.Path(tmp_path / "out"), image_size=32)
  outcome = make("out", shard=(0, 2))
  assert outcome.remaining_parts == 0
  assert _files(tmp_path / "out") == _files(tmp_path / "whole")


def test_claim_by_several_processes_at_once_agrees(tmp_path):
  facts = {"seed": 0, "plan": list(range(2000))}
  with futures.ThreadPoolExecutor(8) as pool:
    for number in range(5):
      out = [tmp_path / f"out-{number}"] * 8
      for folder in pool.map(tree.claim, out, [facts] * 8):
        assert artifacts.read_json(folder / "generation.json") == facts


def test_make_refuses_parts_that_another_process_makes(make, tmp_path):
  make("out", shard=(1, 2))
  hold = (
    "import fcntl, sys; file = open(sys.argv[1], 'r+b');"
    "fcntl.lockf(file, fcntl.LOCK_EX, 1, 2); print('held', flush=True);"
    "sys.stdin.read()"
  )
  with subprocess.Popen(
    [sys.executable, "-c", hold, str(tmp_path / "out/generation.json")],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    text=True,
  ) as other:
    assert other.stdout.readline() == "held\n"
    with pytest.raises(errors.InputError, match="in use by another process"):
      make("out", shard=(0, 2))
    assert make("out", shard=(1, 2)).remaining_parts == 2
    other.communicate("")
  assert make("out", shard=(0, 2)).remaining_parts == 0


def test_prepare_refuses_another_command_and_other_files(make, tmp_path):
  make("out")
  with pytest.raises(errors.InputError, match="another call, with other seed; "):
    make("out", seed=1)
  with pytest.raises(errors.InputError, match="with other settings, batch_size"):
    make("out", batch_size=3, changes={"num_steps": 3})
  (tmp_path / "taken").mkdir()
  (tmp_path / "taken/mine.txt").touch()
  with pytest.raises(errors.InputError, match=r"did not write: mine\.txt"):
    make("taken")
  with pytest.raises(errors.InputError, match=r"mine\.txt is a file"):
    make("taken/mine.txt")


def test_prepare_refuses_before_it_opens_judges(builder_of, make, tmp_path):
  make("out")

  def open_judges():
    raise AssertionError

  run = builder_of("findings").run
  hernia = Plan(quotas=(Quota(num=1, sex="F", ages=(120, 120)),))
  for plan, out in ((hernia, "new"), (hernia, "out"), (PLAN, "out")):
    with pytest.raises(errors.InputError):
      dataset_lib.prepare(run, plan, tmp_path / out, seed=1, open_judges_fn=open_judges)
  assert not (tmp_path / "new").exists()


def test_make_takes_open_findings_from_rows_of_the_split(make, builder_of, tmp_path):
  plan = Plan(quotas=(Quota(num=6, sex="F"),))
  outcome = make("out", plan=plan, split="train")
  fields = builder_of("findings").run.dataset.records.fields("train")
  known = {tuple(row) for row in fields["findings"][fields["sex"] == 0].tolist()}
  read = nih.read_table(epath.Path(tmp_path / "out"), image_size=32)
  assert {tuple(row) for row in read.findings.astype(int).tolist()} <= known
  assert {entry.subject.condition for entry in outcome.whole.entries} == {""}


def test_make_of_an_image_path_takes_conditions_and_labels_from_rows(
  make, builder_of, tmp_path
):
  dataset = builder_of("elixr_c").run.dataset
  fields, ids = dataset.records.fields("train"), dataset.records.ids("train").tolist()
  plan = balance.balanced(fields, dataset.records.vocabulary, 30, of_images=True)
  outcome = make("out", plan=plan, path="elixr_c", split="train", keep_ids=True)
  read = nih.read_table(epath.Path(tmp_path / "out"), image_size=32)
  patients: dict[int, set[int]] = {}
  for number, entry in enumerate(outcome.whole.entries):
    row = ids.index(entry.subject.condition)
    np.testing.assert_array_equal(read.findings[number], fields["findings"][row])
    assert read.age[number] == fields["age"][row]
    patients.setdefault(int(fields["patient"][row]), set()).add(read.patient[number])
  # Real patients and synthetic ones correspond.
  assert all(len(numbers) == 1 for numbers in patients.values())
  assert len({*read.patient.tolist()}) == len(patients)
  sheet = (tmp_path / "out/datasheet.md").read_text()
  assert "| images | asked | made | rejected draws | different conditions |" in sheet
  different = len({entry.subject.condition for entry in outcome.whole.entries})
  assert f"| all | 30 | 30 | 0 | {different} |" in sheet
  # `evaluate --labels` reads the same table.
  labels = image_set.read_labels(tmp_path / "out/Data_Entry_2017.csv").labels
  assert labels["condition"][0] == outcome.whole.entries[0].subject.condition


def test_make_labels_what_a_condition_shows(make, builder_of, tmp_path):
  """Of the same patient's other image, the labels are that image's."""
  run = builder_of("elixr_c", conditioning__reference="same_patient").run
  make(
    "out",
    plan=Plan(quotas=(Quota(num=12, view="PA"),)),
    run=run,
    split="train",
    keep_ids=True,
  )
  read = nih.read_table(epath.Path(tmp_path / "out"), image_size=32)
  fields, ids = run.dataset.records.fields("train"), run.dataset.records.ids("train")
  with (tmp_path / "out/Data_Entry_2017.csv").open() as file:
    shown = [ids.tolist().index(row["Condition"]) for row in csv.DictReader(file)]
  np.testing.assert_array_equal(read.findings, fields["findings"][shown])
  assert (fields["view"][shown] == 0).all()


@pytest.mark.parametrize("path", ["elixr_b", "elixr_bc"])
def test_make_of_paths_that_read_a_text(path, make, encoder, tmp_path, monkeypatch):
  texts = []
  encode = type(encoder).encode_text

  def encode_text(self, columns, prompts):
    texts.extend(prompts)
    return encode(self, columns, prompts)

  monkeypatch.setattr(type(encoder), "encode_text", encode_text)
  opened = []
  monkeypatch.setattr(
    conditions.encoders,
    "open_encoder",
    lambda *_, **__: opened.append(1) or encoder,
  )
  plan = Plan(quotas=(Quota(num=6, findings=("Mass",)), Quota(num=1)))
  make("out", plan=plan, path=path, split="train")
  read = nih.read_table(epath.Path(tmp_path / "out"), image_size=32)
  mass = read.vocabulary.index("Mass")
  np.testing.assert_array_equal(read.findings[:6], [np.eye(14)[mass]] * 6)
  if path == "elixr_b":
    # Several batches, and weights that are read once.
    assert len(opened) == 1
    # Six images in batches of two.
    masses = texts[:6]
    assert all("mass" in text or "lesion" in text for text in masses)
    # Phrasings differ from image to image.
    assert len({*masses}) > 2
  else:
    # Text and image come from one row.
    assert not texts


def test_prepare_refuses_quotas_without_a_row(make):
  plan = Plan(quotas=(Quota(num=1, findings=("Hernia", "Mass"), ages=(0, 1)),))
  with pytest.raises(errors.InputError, match="1 of 1 quotas fit none of the"):
    make("out", plan=plan, path="elixr_c", split="train")


def test_make_writes_other_vocabularies_for_the_source_table(
  make, builder_of, tmp_path
):
  run = builder_of("findings").run
  names = (*run.card.vocabulary[:-1], "Lung Lesion")
  run = dataclasses.replace(run, card=dataclasses.replace(run.card, vocabulary=names))
  quotas = (Quota(num=2, findings=("Lung Lesion",), sex="M"), Quota(num=1, findings=()))
  make("out", plan=Plan(quotas=quotas), run=run)
  sheet = (tmp_path / "out/datasheet.md").read_text()
  columns = re.search('--config.data.columns="(.*)"', sheet)[1]
  read = table.read_table(epath.Path(tmp_path / "out"), image_size=32, columns=columns)
  assert read.vocabulary == names
  assert read.findings.sum(axis=1).tolist() == [1, 1, 0]
  assert read.findings[:, -1].tolist() == [1, 1, 0]
  assert read.sex.tolist() == [1, 1, -1]
  assert read.patient.tolist() == [90_000_001, 90_000_002, 90_000_003]
  assert all(read.image)
  assert read.official.tolist() == ["train"] * 3


def test_make_writes_to_a_bucket(make, bucket):
  make(f"{bucket}/out")
  read = nih.read_table(epath.Path(f"{bucket}/out"), image_size=32)
  assert len(read) == 10
  assert make(f"{bucket}/out").remaining_parts == 0


def test_make_writes_unknown_labels_as_unknown(make, builder_of, tmp_path, monkeypatch):
  run = builder_of("findings").run
  fields = {**run.dataset.records.fields("train")}
  fields["findings"] = fields["findings"].astype(np.float32)
  fields["findings"][:, 1] = np.nan
  monkeypatch.setattr(type(run.dataset.records), "fields", lambda *_: fields)
  plan = Plan(quotas=(Quota(num=3, findings=("Mass",)), Quota(num=5, view="PA")))
  make("out", plan=plan, split="train")
  read = nih.read_table(epath.Path(tmp_path / "out"), image_size=32)
  column = read.findings[:, read.vocabulary.index("Cardiomegaly")]
  assert np.isnan(column).tolist() == [False] * 3 + [True] * 5


def test_make_writes_nothing_of_a_real_image_unless_ids_are_kept(
  make, builder_of, tmp_path
):
  records = builder_of("elixr_c").run.dataset.records
  plan = Plan(quotas=(Quota(num=9, view="PA"),))
  outcome = make("out", plan=plan, path="elixr_c", split="train")
  # Their number is counted all the same.
  different = {entry.subject.condition for entry in outcome.whole.entries}
  sheet = (tmp_path / "out/datasheet.md").read_text()
  assert "No file names them" in sheet
  assert f"| all | 9 | 9 | 0 | {len(different)} |" in sheet
  ids = [str(name).encode() for name in records.ids("train")]
  for name, content in _files(tmp_path / "out").items():
    assert not any(real in content for real in ids), name
  # The same images, and a table with the ids.
  make("out", plan=plan, path="elixr_c", split="train", keep_ids=True)
  labels = image_set.read_labels(tmp_path / "out/Data_Entry_2017.csv").labels
  assert {*labels["condition"]} == different
  assert "column `Condition`" in (tmp_path / "out/datasheet.md").read_text()
