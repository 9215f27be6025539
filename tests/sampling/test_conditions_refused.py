"""What a path cannot use is refused, naming what it takes; so is what cannot be."""

import pytest

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.sampling.request import Request


def test_build_refuses_other_numbers_of_texts_and_references(builder_of, encoder, xray):
  paths = tuple(xray(f"{i}.png", 50) for i in range(3))
  with pytest.raises(errors.InputError, match="2, 3 conditions of different kinds"):
    builder_of("elixr_bc").build(Request(prompts=("a", "b"), references=paths), 1)


TAKES = {
  "findings": "findings, image_ids, unconditional",
  "elixr_c": "reference, image_ids, unconditional",
  "elixr_b": "prompt, findings, image_ids, unconditional",
  "elixr_bc": "prompt, findings, reference, image_ids, unconditional",
}


@pytest.mark.parametrize(
  ("path", "request_", "flag"),
  [
    ("findings", Request(prompts=("a",)), "prompt"),
    ("findings", Request(references=("a.png",)), "reference"),
    ("findings", Request(negative_prompt="a"), "negative_prompt"),
    ("elixr_c", Request(prompts=("a",)), "prompt"),
    ("elixr_c", Request(findings=("Mass",)), "findings"),
    ("elixr_c", Request(view="PA"), "findings"),
    ("elixr_c", Request(negative_prompt="a"), "negative_prompt"),
    ("elixr_b", Request(references=("a.png",)), "reference"),
  ],
)
def test_build_refuses_what_the_path_cannot_use(path, request_, flag, builder_of):
  with pytest.raises(errors.InputError) as refusal:
    builder_of(path).build(request_, 1)
  assert f"{flag} for a run whose condition is not made from it" in str(refusal.value)
  assert f"expected {TAKES[path]};" in str(refusal.value)


@pytest.mark.parametrize(
  ("path", "request_", "message"),
  [
    ("elixr_b", Request(prompts=("a", " ")), "an empty prompt or finding"),
    ("elixr_b", Request(negative_prompt=" "), "an empty prompt or finding"),
    ("findings", Request(findings=("",)), "an empty prompt or finding"),
    ("findings", Request(findings=("Efusion",)), "did you mean Effusion"),
    ("elixr_b", Request(findings=("Efusion",)), "did you mean Effusion"),
    ("findings", Request(findings=("No Finding,Mass",)), "No Finding"),
    ("findings", Request(sex="X"), "sex 'X'; expected F or M"),
    ("elixr_b", Request(age=63.0), "without findings"),
    ("elixr_b", Request(prompts=("a",), view="PA"), "without findings"),
    ("elixr_c", Request(references=("none.png",)), "cannot read the reference none"),
    (
      "elixr_c",
      Request(image_ids=("1",), references=("a",)),
      "reference with image_ids; expected one of them",
    ),
    (
      "elixr_bc",
      Request(image_ids=("1",), references=("a",), prompts=("a",)),
      "prompt with reference with image_ids",
    ),
    ("elixr_b", Request(image_ids=("1",), prompts=("a",)), "prompt with image_ids"),
    (
      "elixr_bc",
      Request(unconditional=True, prompts=("a",)),
      "prompt with unconditional",
    ),
    (
      "findings",
      Request(unconditional=True, image_ids=("1",)),
      "image_ids with unconditional",
    ),
  ],
)
def test_build_refuses_impossible_requests(
  path, request_, message, builder_of, encoder
):
  with pytest.raises(errors.InputError, match=message):
    builder_of(path).build(request_, 1)
