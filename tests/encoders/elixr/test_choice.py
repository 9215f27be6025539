"""`kind=auto` reads what a tree holds, in each published form, and says so."""

import logging

from absl import logging as absl_logging
import numpy as np
import pytest

from configs import elixr_b as config_lib
from cxr_diffusion_jax import errors
from cxr_diffusion_jax.conditioning import elixr_b
from cxr_diffusion_jax.encoders import base
from cxr_diffusion_jax.encoders.elixr import choice
from cxr_diffusion_jax.run import dataset
from cxr_diffusion_jax.training import experiment as experiment_lib
from tests.encoders.elixr.files.made_files import stems_of, values_of, write_h5
from tests.fixtures.elixr_files import write_elixr

STEMS = stems_of(3)
IDS = STEMS.astype("S")
ALL = "all_contrastive_img_emb"


def _form_c(root):
  pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
  write_h5(root / "elixrb/part_0.h5", embeddings=values_of(ALL, 3)[:, None])
  table = pa.table({"Image Index": np.char.add(STEMS, ".png").tolist()})
  pq.write_table(table, root / "elixrb/part.parquet")


def _form_f(root):
  rows = zip(STEMS.tolist(), values_of(ALL, 3).reshape(3, -1), strict=True)
  np.savez(root / "elixr_precomputed_image_embeddings.npz", **dict(rows))


# Form and content -> how it is written, the kind that it holds, tokens of the stream.
FORMS = {
  "A, txt_emb": (
    lambda root: write_h5(
      root / "elixrb/txt_emb/txt_emb_1.h5",
      Image__Index=IDS,
      txt_emb=values_of("txt_emb", 3),
    ),
    "txt_emb",
    (128, 768),
  ),
  "B, 32 x 128": (
    lambda root: write_h5(
      root / "elixrb/a.h5", image_ids=IDS, embeddings=values_of(ALL, 3)
    ),
    ALL,
    (32, 128),
  ),
  "B, 1 x 32 x 128": (
    lambda root: write_h5(
      root / "elixrb/a.h5", image_ids=IDS, embeddings=values_of(ALL, 3)[:, None]
    ),
    ALL,
    (32, 128),
  ),
  "B, 128": (
    lambda root: write_h5(
      root / "elixrb/a.h5",
      image_ids=IDS,
      embeddings=values_of("contrastive_img_emb", 3),
    ),
    "contrastive_img_emb",
    (1, 128),
  ),
  "C": (_form_c, ALL, (32, 128)),
  "E": (
    lambda root: write_h5(
      root / "elixr_qformer_embeddings.h5",
      Image__Index=IDS,
      embeddings=values_of("img_emb", 3),
    ),
    "img_emb",
    (32, 768),
  ),
  "F": (_form_f, ALL, (32, 128)),
  "none": (lambda root: None, "txt_emb", (128, 768)),
}


def _config(root):
  config = config_lib.get_config("dit_tiny")
  config.data.root = str(root)
  return config


@pytest.mark.parametrize("form", FORMS)
def test_build_reads_the_kind_of_each_form(form, tmp_path):
  write, kind, (num_tokens, width) = FORMS[form]
  write(tmp_path)
  experiment = experiment_lib.build(_config(tmp_path))
  conditioner = experiment.recipe.conditioner
  assert conditioner.needs.columns == (kind,)
  (stream,) = conditioner.streams
  assert (stream.num_tokens, stream.width) == (num_tokens, width)
  # What a run stores does not depend on the tree any more.
  assert experiment.config["conditioning"]["kind"] == kind


def test_settle_prefers_texts_and_published_files_and_logs_it(tmp_path, caplog):
  absl_logging.use_absl_handler()
  section = {"name": "elixr_b", "kind": elixr_b.AUTO}
  for kind, standin in (("txt_emb", True), (ALL, False), ("img_emb", False)):
    write_elixr(
      tmp_path, kind, STEMS, values_of(kind, 3), encoder="some", standin=standin
    )
  with caplog.at_level(logging.INFO):
    assert choice.settle(section, tmp_path)["kind"] == "img_emb"
  assert "kind=auto reads img_emb, of some: the first of txt_emb," in caplog.text
  assert choice.kinds_in(tmp_path) == ("txt_emb", "img_emb", ALL)
  # A given kind is left as it is, and so are other paths.
  assert choice.settle({"kind": ALL}, tmp_path) == {"kind": ALL}
  assert choice.settle({"name": "findings"}, tmp_path) == {"name": "findings"}
  assert set(elixr_b.PREFERRED) == set(elixr_b.KINDS)


def test_prepare_joins_what_the_published_dataset_holds(settings, open_records):
  """Form B with all its ids, as the dataset that texts were promised by has it."""
  records = open_records(settings)
  ids = np.concatenate([records.ids(split) for split in records.num_rows])
  values = values_of(ALL, len(ids))
  root = settings.root
  write_elixr(root, ALL, ids, values, encoder="the published one", standin=False)
  conditioner = experiment_lib.build(_config(root)).recipe.conditioner
  source = dataset.prepare(settings, conditioner.needs).source("test")
  row = int(np.flatnonzero(ids == records.ids("test")[0])[0])
  np.testing.assert_allclose(source[0][ALL], values[row], atol=2e-3)
  with pytest.raises(errors.InputError, match=f"no txt_emb.*which has {ALL} for conf"):
    dataset.prepare(settings, base.needs("txt_emb"))
