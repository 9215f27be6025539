"""The datasheet of a synthetic dataset: what it is, how it was made, what it is for."""

from collections import Counter

from cxr_diffusion_jax import artifacts
from cxr_diffusion_jax.data import labels as labels_lib
from cxr_diffusion_jax.run.run import Run
from cxr_diffusion_jax.synthesis import plan as plan_lib
from cxr_diffusion_jax.synthesis import rows, tables, tree
from cxr_diffusion_jax.synthesis.dataset import SyntheticDataset

# After "Gebru et al., Datasheets for Datasets" (1803.09010), as far as it applies.
_TEXT = """\
# Datasheet: synthetic chest X-rays

{made:,} images of {asked:,} planned. **No image shows a real patient.** Each PNG states
so in a text chunk `synthetic`; patient numbers begin at 90000001, above all of NIH's.

## Origin

{origin}

## Conditions and labels

{labels}
The table has the labels that were asked for, not what a reader saw in the images.
Labels that were not part of the condition are empty.

## Filter

{judged}

## Images

{totals}

{quotas}

## Use

    {flags}

are the flags of `prepare` and `main` that read this folder; no image of it is in a test
split. Intended for research: adding images to real training data, balancing rare
findings, testing pipelines. Not for diagnosis, and not for evaluation in place of real
images.

- The model learned from its training images: what they lack or misrepresent is lacking
  or misrepresented here, and may have been amplified.
- A generative model can reproduce training images. Before sharing these, measure it:
  `evaluate --synthetic FOLDER/original --real TEST --training TRAIN --metrics privacy`
  compares them with folders of images.
- {conditions}
- Do not evaluate these images, or classifiers trained on them, with a judge that
  filtered them: they were selected to agree with it. Use another one.
"""


def text(dataset: SyntheticDataset, whole: tree.Part) -> str:
  """Writes the datasheet of a dataset, of which `whole` was made, in Markdown."""
  run, plan, facts = dataset.run, dataset.plan, dataset.facts
  image_path = rows.reads_images(run)
  return _TEXT.format(
    made=len(whole.entries),
    asked=len(plan),
    origin=_listed(_origin(run, facts)),
    labels=_labels(plan, facts["split"], image_path, dataset.keep_ids),
    judged=_judged(dataset, whole),
    totals=_table("images", _totals(plan), plan, whole, image_path),
    quotas=_table("quota", _quotas(plan), plan, whole, image_path),
    flags=tables.flags(run.card.vocabulary),
    conditions=_conditions(facts["split"], image_path),
  )


def _origin(run: Run, facts: artifacts.Json) -> dict[str, object]:
  settings = facts["settings"]
  return {
    "model": f"{run.name}, {run.checkpoint_text}",
    "weights (SHA-256)": facts["weights"],
    "condition": ", ".join(stream.name for stream in run.recipe.conditioner.streams),
    "trained on": f"{run.card.kind}, fingerprint {run.card.fingerprint}",
    "image size": f"{run.card.image_size} pixels",
    "seed": facts["seed"],
    "guidance": settings["guidance"],
    "sampler": f"{settings['sampler']}, {settings['num_steps']} steps,"
    f" spacing {settings['spacing']}",
    "other settings": ", ".join(
      f"{key} {value}"
      for key, value in settings.items()
      if value and key not in ("guidance", "sampler", "num_steps", "spacing")
    ),
    "made by": "cxr_diffusion_jax, command generate",
  }


def _listed(values: dict[str, object]) -> str:
  return "\n".join(f"- {key}: {value}" for key, value in values.items())


def _labels(plan: plan_lib.Plan, split: str, image_path: bool, keep_ids: bool) -> str:
  if image_path:
    ids = (
      "The column `Condition` names them: do not pass it on where the real images may\n"
      "not be identified."
      if keep_ids
      else "No file names them. Who has the same images, the model and the seed can\n"
      "find out which they were; `generate --keep_ids` writes them to the table."
    )
    return (
      f"Conditions were made from real images of the split `{split}`. {ids}\n"
      "Labels are those of these images. Images of one real patient share a synthetic\n"
      "patient, so that a split by patient keeps them together.\n"
    )
  text = (
    "Conditions were composed of labels alone. Each image is a patient of its own.\n"
    "Findings that are not named were asked to be absent.\n"
  )
  if any(quota.findings is None for quota in plan.quotas):
    text += f"Findings that a quota left open are those of images of `{split}`.\n"
  return text


def _conditions(split: str, image_path: bool) -> str:
  if not image_path:
    return "Combinations of labels may be rare or impossible in real patients."
  warning = {
    "train": "The model was trained on the images that conditions come from, which\n"
    "  elicits copies of them.",
    "test": "Conditions come from test images: do not evaluate on that test split\n"
    "  what was trained on this dataset.",
  }
  close = (
    "An image generated from a real condition can come close to that image: treat it\n"
    "  as you treat the real one."
  )
  return "\n  ".join(filter(None, [close, warning.get(split, "")]))


def _judged(dataset: SyntheticDataset, whole: tree.Part) -> str:
  if not dataset.judges:
    return "None: every generated image is included."
  lines = [
    f"- {one.title} (fingerprint {one.fingerprint}), which accepts"
    f" {one.real_rate:.0%} of the real validation images by the same rule"
    for one in dataset.judges
  ]
  rejected = sum(whole.rejected.values())
  drawn = rejected + len(whole.entries)
  objections = Counter(whole.objections).most_common()
  listed = ", ".join(f"{name} ({count:,})" for name, count in objections)
  return "\n".join(
    [
      *lines,
      "",
      f"{rejected:,} of {drawn:,} images were rejected, each place at most"
      f" {dataset.max_draws} times; {len(whole.missing):,} places stayed empty.",
      "An image was rejected if a judge missed a label that was asked for, or saw one",
      "that was not more clearly than in 98 % of real images without it.",
      f"Reasons: {listed or 'none'}.",
    ]
  )


# Name -> places of quotas in the plan.
_Groups = dict[str, list[int]]


def _quotas(plan: plan_lib.Plan) -> _Groups:
  groups: _Groups = {}
  for row, quota in enumerate(plan.quotas):
    groups.setdefault(quota.title, []).append(row)
  return groups


def _totals(plan: plan_lib.Plan) -> _Groups:
  """All quotas, then those of each finding, sex and view that quotas name."""
  groups: list[_Groups] = [{}, {}, {}, {}]
  for row, quota in enumerate(plan.quotas):
    findings = [labels_lib.NO_FINDING] if quota.findings == () else quota.findings or ()
    names = (("all",), findings, (quota.sex,), (quota.view,))
    for of_kind, named in zip(groups, names, strict=True):
      for name in filter(None, named):
        of_kind.setdefault(name, []).append(row)
  return {name: rows for of_kind in groups for name, rows in of_kind.items()}


def _table(
  name: str, groups: _Groups, plan: plan_lib.Plan, whole: tree.Part, image_path: bool
) -> str:
  """Counts of groups; of paths that read an image also of the conditions' images."""
  entries: dict[int, list[tree.Entry]] = {}
  for entry in whole.entries:
    entries.setdefault(entry.quota, []).append(entry)
  heads = [name, "asked", "made", "rejected draws"]
  heads += ["different conditions"] if image_path else []
  lines = [heads, ["---", *["--:"] * (len(heads) - 1)]]
  for title, quotas in groups.items():
    made = [entry for row in quotas for entry in entries.get(row, ())]
    counts = [
      sum(plan.quotas[row].num for row in quotas),
      len(made),
      sum(whole.rejected.get(row, 0) for row in quotas),
      len({entry.subject.condition for entry in made}),
    ]
    shown = [f"{count:,}" for count in counts[: len(heads) - 1]]
    lines.append([title.replace("|", " + "), *shown])
  return "\n".join(f"| {' | '.join(line)} |" for line in lines)
