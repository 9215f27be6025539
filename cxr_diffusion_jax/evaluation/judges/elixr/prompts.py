"""The sentences that ELIXR compares X-rays with, two a finding.

In the manner of Xu et al., ELIXR, 2308.01317: short, as in a report, and the second
says that the finding is not there.
"""

from collections.abc import Mapping
from types import MappingProxyType

# Finding -> a sentence with it and a sentence without it.
PROMPTS: Mapping[str, tuple[str, str]] = MappingProxyType(
  {
    "Atelectasis": ("atelectasis", "no atelectasis"),
    "Cardiomegaly": ("enlarged heart, cardiomegaly", "normal heart size"),
    "Consolidation": ("consolidation", "no consolidation"),
    "Edema": ("pulmonary edema", "no pulmonary edema"),
    "Effusion": ("large pleural effusion", "no pleural effusion"),
    "Emphysema": ("emphysema", "no emphysema"),
    "Fibrosis": ("pulmonary fibrosis", "no pulmonary fibrosis"),
    "Hernia": ("hiatal hernia", "no hiatal hernia"),
    "Infiltration": ("lung infiltrate", "no lung infiltrate"),
    "Mass": ("lung mass", "no lung mass"),
    "Nodule": ("lung nodule", "no lung nodule"),
    "Pleural_Thickening": ("pleural thickening", "no pleural thickening"),
    "Pneumonia": ("pneumonia", "no pneumonia"),
    "Pneumothorax": ("small pneumothorax", "no pneumothorax"),
  }
)
