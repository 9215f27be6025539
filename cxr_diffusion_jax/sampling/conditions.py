"""Builds conditions from images of the records, or from user input.

  split | image ids        --columns of the records--> fields [n ...]
  prompts, findings        --text encoder-----------> fields [n ...]
  reference images         --image encoder----------> fields [n ...]

A missing field is blank (zeros or unknown), which gives no token.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import functools
import pathlib

import numpy as np

from cxr_diffusion_jax import artifacts, errors, types
from cxr_diffusion_jax.conditioning import base as conditioning
from cxr_diffusion_jax.data import csv_table, labels, pipeline, prompts, reference
from cxr_diffusion_jax.data import images as images_lib
from cxr_diffusion_jax.encoders import base as encoder_lib
from cxr_diffusion_jax.encoders import opening as encoders
from cxr_diffusion_jax.run.run import Run
from cxr_diffusion_jax.sampling import request as request_lib
from cxr_diffusion_jax.sampling.request import Conditions, Request

# Fields of the records, for the path without an encoder.
LABELS = ("findings", "age", "sex", "view")
VIEWS, SEXES = ("PA", "AP"), ("F", "M")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConditionBuilder:
  """Builds conditions for a run; opens its records for requests that name rows.

  Encoders are opened on first use and kept: a builder for many batches loads them once.
  """

  run: Run

  @property
  def needs(self) -> conditioning.Needs:
    """What the run's path reads."""
    return self.run.needs

  def build(self, request: Request, count: int) -> Conditions:
    """Builds the conditions of a request.

    Args:
      count: number of conditions to take from a split; ignored for other requests.

    Raises:
      errors.InputError: input that the path cannot use, or that cannot be read.
    """
    self._check(request)
    needs = self.needs
    parts: list[tuple[Conditions, Sequence[str]]] = []
    if request.unconditional:
      parts.append((self._rows([{"unconditional": True}], self._blank(1)), ()))
    if request.image_ids:
      parts.append((self._of_ids(request.image_ids), needs.columns))
    if {"prompt", "findings"} & set(request.given):
      parts.append((self._of_words(request), needs.text_columns))
    if request.references:
      parts.append((self._of_references(request.references), needs.reference_columns))
    result = request_lib.join(parts) if parts else self._of_split(request.split, count)
    if request.negative_prompt:
      known = {"negative_prompt": request.negative_prompt}
      result = dataclasses.replace(
        result,
        entries=[{**entry, **known} for entry in result.entries],
        negative=self._text_fields([request.negative_prompt]),
      )
    return result

  def guess(self, text: str) -> Request:
    """Interprets a text as a file, an image id, a prompt, or findings."""
    takes = self.needs.inputs
    if "reference" in takes and pathlib.Path(text).is_file():
      return Request(references=(text,))
    known = self.run.has_image(csv_table.stem(text))
    if not known and "prompt" in takes:
      return Request(prompts=(text,))
    if not known and "findings" in takes:
      return Request(findings=(text,))
    return Request(image_ids=(text,))

  def between(self, texts: Sequence[str], negative_prompt: str = "") -> Conditions:
    """Builds one condition for each text, interpreted by `guess`."""
    asked = [
      dataclasses.replace(self.guess(text), negative_prompt=negative_prompt)
      for text in texts
    ]
    return request_lib.join_rows([self.build(request, 1) for request in asked])

  def _check(self, request: Request) -> None:
    """Raises InputError for input that the path cannot use."""
    takes = (*self.needs.inputs, "image_ids", "unconditional")
    wrong = [name for name in request.given if name not in takes]
    if request.negative_prompt and "prompt" not in takes:
      wrong.append("negative_prompt")
    if wrong:
      raise errors.InputError(
        f"{wrong[0]} for a run whose condition is not made from it",
        ", ".join(takes),
        "sample a run of a path that takes it",
      )
    if request.source and request.source not in self._sources:
      raise errors.InputError(
        f"source {request.source!r}",
        " or ".join(self._sources) or "none: this run has no token of the source",
      )
    given = set(request.given)
    alone = {"unconditional"} | ({"image_ids"} if len(self.needs.inputs) < 3 else set())
    if (alone & given and len(given) > 1) or {"image_ids", "reference"} <= given:
      raise errors.InputError(" with ".join(request.given), "one of them")
    texts = (*request.prompts, *request.findings, request.negative_prompt or "none")
    if any(not text.strip() for text in texts):
      raise errors.InputError(
        "an empty prompt or finding",
        "words, or 'No Finding'",
        "an unconditional image needs no condition",
      )

  def _of_split(self, split: str, count: int) -> Conditions:
    source = self.run.dataset.source(split)
    usable = np.flatnonzero(source.reference_row >= 0)
    if not len(usable):
      raise errors.InputError(
        f"split {split!r}, where no patient has two images",
        f"a reference for config.conditioning.reference={self.needs.reference}",
        "name another split, or reference images",
      )
    places = np.linspace(0, len(usable) - 1, min(count, len(usable))).astype(int)
    return self._of_places([(source, place) for place in usable[places].tolist()])

  def _of_ids(self, image_ids: Sequence[str]) -> Conditions:
    places = self.run.dataset.find(image_ids)
    for name, (source, place) in zip(image_ids, places, strict=True):
      if source.reference_row[place] < 0:
        raise errors.InputError(
          f"image {name}, whose patient has no other image",
          f"one for config.conditioning.reference={self.needs.reference}",
        )
    return self._of_places(places)

  def _of_places(self, places: Sequence[tuple[pipeline.JoinedSource, int]]):
    rows = [source.batch([place]) for source, place in places]
    wanted = self.needs.columns or (*LABELS, *["source"] * self.needs.sources)
    entries, vocabulary = [], self.run.card.vocabulary
    for (source, place), row in zip(places, rows, strict=True):
      ids = self.run.dataset.records.ids(source.split)
      own, shown = source.row[place], source.reference_row[place]
      entry = {"image_id": str(ids[own]), **_stated(row["findings"][0], vocabulary)}
      entries.append(
        entry | ({"reference_id": str(ids[shown])} if shown != own else {})
      )
    return Conditions(
      fields={name: np.concatenate([row[name] for row in rows]) for name in wanted},
      entries=entries,
      names=[entry["image_id"] for entry in entries],
      references=np.stack([source.reference_image(place) for source, place in places]),
    )

  def _of_words(self, request: Request) -> Conditions:
    """Conditions of prompts or findings, as labels or as sentences for an encoder."""
    if "prompt" not in self.needs.inputs:
      return self._of_labels(request)
    vocabulary = self.run.card.vocabulary
    wanted = [
      labels.stated(labels.parse(text, vocabulary), vocabulary)
      for text in request.findings
    ]
    if not wanted and "findings" in request.given:
      wanted.append(None)
    if None in wanted and (request.prompts or not self._partial):
      raise errors.InputError(
        "findings of which nothing is known"
        if request.findings
        else "age, sex or view without findings",
        "findings, from which a sentence is made",
        "write them into the prompt, or add the finding 'No Finding'",
      )
    person = {
      "view": request.view or None,
      "age": request.age,
      "sex": request.sex or None,
    }
    texts = list(request.prompts)
    entries: list[artifacts.Json] = [{"prompt": text} for text in texts]
    for names in wanted:
      texts.append(prompts.prompt(names, vocabulary=vocabulary, **person))
      known = {} if names is None else {"findings": names}
      entries.append({"prompt": texts[-1], **known})
    return self._rows(entries, self._text_fields(texts))

  @property
  def _partial(self) -> bool:
    """Whether the run has learned from prompts that leave out findings."""
    columns = self.run.card.columns
    return any(columns[name].captions > 1 for name in self.needs.text_columns)

  def _of_labels(self, request: Request) -> Conditions:
    texts = request.findings or ("",)
    known: dict[str, float] = {}
    if request.age is not None and request.age >= 0:
      known["age"] = request.age
    for name, codes in (("sex", SEXES), ("view", VIEWS)):
      if text := getattr(request, name):
        if text not in codes:
          raise errors.InputError(f"{name} {text!r}", " or ".join(codes))
        known[name] = codes.index(text)
    if request.source:
      known["source"] = self._sources.index(request.source)
    blank = self._blank(len(texts))
    entries, vocabulary = [], self.run.card.vocabulary
    for row, text in enumerate(texts):
      entry: artifacts.Json = {name: getattr(request, name) for name in known}
      if text:
        blank["findings"][row] = findings = labels.parse(text, vocabulary)
        entry |= _stated(findings, vocabulary)
      for name, value in known.items():
        blank[name][row] = value
      entries.append(entry)
    return self._rows(entries, blank)

  def _of_references(self, paths: Sequence[str]) -> Conditions:
    shown = [reference.read_reference(path) for path in paths]
    squares = [
      images_lib.resize(image, self.run.card.image_size, self.run.card.resize)
      for image in shown
    ]
    fields = self._blank(len(paths))
    for name in self.needs.reference_columns:
      encoder = self._encoder(name)
      wanted = shown if encoder.whole_images else squares
      fields[name] = encoder.encode_images([name], wanted)[name]
    result = self._rows([{"reference": str(path)} for path in paths], fields)
    return dataclasses.replace(result, references=np.stack(squares)[..., None])

  def _text_fields(self, texts: Sequence[str]) -> types.Batch:
    fields: types.Batch = {**self._blank(len(texts))}
    for name in self.needs.text_columns:
      fields[name] = self._encoder(name).encode_text([name], texts)[name]
    return fields

  def _encoder(self, name: str) -> encoder_lib.Encoder:
    if name not in self._opened:
      (spec,) = (spec for spec in self.needs.specs if spec.name == name)
      self._opened[name] = encoders.open_encoder(
        spec,
        self.run.card.columns[name],
        [self.run.folder / encoders.STANDIN_CLIP, self.run.data.standin_clip],
      )
    return self._opened[name]

  @property
  def _sources(self) -> tuple[str, ...]:
    """Names of the sources that the run can be asked for."""
    return self.run.data.source_names if self.needs.sources else ()

  @functools.cached_property
  def _opened(self) -> dict[str, encoder_lib.Encoder]:
    return {}

  def _blank(self, count: int) -> dict[str, np.ndarray]:
    """Returns [count ...] of every field, blank."""
    card = self.run.card
    if not card.columns:
      return {
        "findings": np.full((count, len(card.vocabulary)), np.nan, np.float32),
        "age": np.full(count, np.nan, np.float32),
        "sex": np.full(count, -1, np.float32),
        "view": np.full(count, -1, np.float32),
      } | ({"source": np.full(count, -1, np.int32)} if self.needs.sources else {})
    return {
      name: np.zeros((count, *column.shape), np.float16)
      for name, column in card.columns.items()
    }

  def _rows(
    self,
    entries: Sequence[artifacts.JsonMapping],
    fields: Mapping[str, types.Array],
  ) -> Conditions:
    return Conditions(
      fields=dict(fields),
      entries=entries,
      names=request_lib.distinct([request_lib.slug(entry) for entry in entries]),
      references=None,
    )


def _stated(findings: np.ndarray, vocabulary: Sequence[str]) -> artifacts.Json:
  """What an entry says of findings [k]; nothing where nothing is known."""
  names = labels.stated(findings, vocabulary)
  return {} if names is None else {"findings": names}
