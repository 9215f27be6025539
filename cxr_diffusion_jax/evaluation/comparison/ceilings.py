"""How well judges and embeddings see findings in real images they were not made of.

classifier of stored embeddings, ELIXR's stored outputs -> NIH's and experts' labels
judges of findings -> experts' labels
"""

from collections.abc import Sequence

from cxr_diffusion_jax import types
from cxr_diffusion_jax.data.sources.nih import google_labels, layout
from cxr_diffusion_jax.encoders.elixr import zero_shot as elixr_zero_shot
from cxr_diffusion_jax.encoders.extractors import opening as features_lib
from cxr_diffusion_jax.evaluation.eval_context import EvalContext
from cxr_diffusion_jax.evaluation.judges import (
  embedding_classifier,
  expert_labels,
  zero_shot,
)
from cxr_diffusion_jax.evaluation.judges import opening as judges_lib
from cxr_diffusion_jax.evaluation.measurement import Measurement
from cxr_diffusion_jax.evaluation.metric import Metric
from cxr_diffusion_jax.run import run as run_lib

# Columns that the classifier of embeddings reads.
EMBEDDINGS = ("img_emb", "elixrc")


def of_embeddings(
  context: EvalContext,
  runs: Sequence[run_lib.Run],
  *,
  elixr_models: str = "",
  progress: types.Progress = types.no_progress,
) -> list[Measurement]:
  """How well findings are read from the stored embeddings of real images."""
  settings, records = context.settings, context.records
  assert settings is not None
  assert records is not None
  assert context.training is not None
  columns = {
    column.description.name: column for run in runs for column in run.dataset.columns
  }
  expert = _expert_labels(context)
  figures = []
  for name in EMBEDDINGS:
    if name in columns:
      figures += judges_lib.attempt(
        embedding_classifier.METRICS[0].name,
        lambda column=columns[name]: embedding_classifier.measure(
          records, column, expert=expert, cache=context.cache, progress=progress
        ),
        num=len(context.training),
        judge=name,
        of="real",
      )
  stored = columns.get(elixr_zero_shot.IMAGES)
  scorer = None
  if stored is not None:
    scorer = elixr_zero_shot.open_scorer(settings, elixr_models=elixr_models)
  if stored is not None and isinstance(scorer, elixr_zero_shot.Scorer):
    fields = records.fields(context.split)
    findings, patients = fields["findings"], fields["patient"]
    figures += judges_lib.attempt(
      "auroc",
      lambda: zero_shot.measure_column(
        scorer,
        stored,
        context.split,
        findings,
        patients,
        vocabulary=records.vocabulary,
      ),
      num=len(findings),
      judge=f"{zero_shot.JUDGE}, stored",
      of="real",
    )
  return figures


def by_experts(context: EvalContext, metrics: Sequence[Metric]) -> list[Measurement]:
  """The judges of findings against expert labels of real images, if there are any."""
  wanted = {*expert_labels.METRICS} & {*metrics}
  records, expert = context.records, _expert_labels(context) if wanted else None
  if records is None or expert is None:
    return []
  scorers = [
    expert_labels.Scorer(
      title=one.title,
      findings=one.findings,
      scores_fn=lambda images, one=one: one.head_fn(
        features_lib.extract(one.extractor, images)
      ),
    )
    for one in context.classifiers
  ]
  if context.judge is not None:
    own = expert_labels.Scorer(
      title=context.judge_name,
      findings=records.vocabulary,
      scores_fn=context.judge.scores,
      standin=True,
    )
    scorers = [own, *scorers]
  figures = expert_labels.measure(records, expert, scorers)
  names = {record.name for record in wanted}
  return [one for one in figures if one.metric in names]


def _expert_labels(context: EvalContext) -> google_labels.GoogleLabels | None:
  assert context.settings is not None
  root = context.settings.nih_root
  if root is None:
    return None
  paths = layout.find_tree(root).google_labels
  return google_labels.read_google_labels(paths) if paths else None
