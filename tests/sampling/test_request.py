"""What is asked for, how conditions are put together, and what files are called."""

import re

import numpy as np
import pytest

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.cli import sample_flags
from cxr_diffusion_jax.sampling import request as request_lib
from cxr_diffusion_jax.sampling.request import Conditions, Request


def _conditions(n: int, start: float = 0.0, references: bool = False) -> Conditions:
  """n conditions whose fields `text` and `image` count from `start`."""
  numbers = np.arange(start, start + n, dtype=np.float32)
  return Conditions(
    fields={"text": numbers[:, None], "image": 100 + numbers[:, None]},
    entries=[{f"of {start:g}": int(number)} for number in numbers],
    names=[f"{number:g}" for number in numbers],
    references=np.full((n, 4, 4, 1), start, np.uint8) if references else None,
  )


@pytest.mark.parametrize(
  ("request_", "given"),
  [
    (Request(), ()),
    (Request(split="validation", negative_prompt="noise"), ()),
    (Request(prompts=("a",)), ("prompt",)),
    (Request(findings=("Mass",), age=3.0), ("findings",)),
    (Request(age=0.0), ("findings",)),
    (Request(view="PA"), ("findings",)),
    (Request(references=("x.png",), prompts=("a",)), ("prompt", "reference")),
    (Request(image_ids=("1",), unconditional=True), ("image_ids", "unconditional")),
  ],
)
def test_request_lists_what_is_given(request_, given):
  assert request_.given == given


def test_conditions_take_rows_together():
  taken = _conditions(3, references=True).take([2, 0, 2])
  assert len(taken) == 3
  assert taken.names == ["2", "0", "2"]
  np.testing.assert_array_equal(taken.fields["image"][:, 0], [102, 100, 102])
  assert taken.references.shape == (3, 4, 4, 1)
  assert _conditions(3).take([1]).references is None


def test_join_rows_concatenates():
  joined = request_lib.join_rows([_conditions(1), _conditions(2, 5)])
  np.testing.assert_array_equal(joined.fields["text"][:, 0], [0, 5, 6])
  assert joined.names == ["0", "5", "6"]
  assert joined.references is None


@pytest.mark.parametrize(("m", "n"), [(1, 3), (3, 1), (3, 3), (1, 1)])
def test_join_combines_kinds(m, n):
  texts, images = _conditions(m), _conditions(n, 10, references=True)
  joined = request_lib.join([(texts, ["text"]), (images, ["image"])])
  rows = np.arange(max(m, n))
  np.testing.assert_array_equal(joined.fields["text"][:, 0], rows % m)
  np.testing.assert_array_equal(joined.fields["image"][:, 0], 110 + rows % n)
  assert joined.names == [f"{row % m}_{10 + row % n}" for row in rows]
  assert joined.entries[-1] == {"of 0": rows[-1] % m, "of 10": 10 + rows[-1] % n}
  assert (joined.references == 10).all()


def test_join_refuses_other_numbers():
  parts = [(_conditions(2), ["text"]), (_conditions(3), ["image"])]
  with pytest.raises(errors.InputError, match="2, 3 conditions of different kinds"):
    request_lib.join(parts)


@pytest.mark.parametrize(
  ("entry", "name"),
  [
    ({"prompt": "An AP film: small effusion!"}, "An-AP-film--small-effusion"),
    ({"prompt": "x" * 99}, "x" * 40),
    ({"prompt": "../../etc/passwd"}, "etc-passwd"),
    ({"prompt": "плевральный выпот"}, "x"),
    ({"reference": "/home/a b/00000001_000.dcm"}, "00000001_000"),
    ({"findings": ("Mass", "Pleural_Thickening")}, "Mass_Pleural_Thickening"),
    ({"findings": ()}, "No-Finding"),
    ({"age": 63.0, "sex": "F"}, "age-63-0_sex-F"),
    ({"unconditional": True}, "unconditional"),
  ],
)
def test_slug_makes_file_names(entry, name):
  assert request_lib.slug(entry) == name
  assert re.fullmatch(r"[A-Za-z0-9_-]{1,40}", name)


def test_distinct_numbers_equal_names():
  names = ["x", "x-2", "y", "x", "x"]
  result = request_lib.distinct(names)
  assert result == ["x", "x-2", "y", "x-3", "x-4"]


def test_read_prompts_reads_a_file(tmp_path):
  path = tmp_path / "prompts.txt"
  path.write_text("an effusion\n\n  größe \n", encoding="utf-8")
  assert sample_flags.read_prompts(path) == ["an effusion", "größe"]


@pytest.mark.parametrize(
  ("content", "message"),
  [
    (None, "No such file"),
    (b"\n  \n", "without a prompt; expected one a line"),
    (b"\xff\xfe\x00", "a text file with one prompt a line"),
  ],
)
def test_read_prompts_refuses_a_file_without_prompts(content, message, tmp_path):
  path = tmp_path / "prompts.txt"
  if content is not None:
    path.write_bytes(content)
  with pytest.raises(errors.InputError, match=message):
    sample_flags.read_prompts(path)
