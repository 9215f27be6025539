"""Reports: sections, marks of de-identification, sentences, captions."""

import pytest

from cxr_diffusion_jax.data import reports

# In the form of MIMIC-CXR's files.
REPORT = """                                 FINAL REPORT
 EXAMINATION:  CHEST (PA AND LAT)

 INDICATION:  ___-year-old woman with cough  // eval pneumonia

 COMPARISON:  ___

 FINDINGS:

 The lungs are clear. In comparison with the study of ___, there is no change.
 Heart size is normal, as discussed with Dr. ___ on ___.

 IMPRESSION:

 No acute process.

 IMPRESSION:

 1. Small left effusion, seen by Dr. ___ at 9:30 a.m.
 2. No pneumothorax (___).
"""
TEXT = (
  "The lungs are clear. In comparison with the study, there is no change. Heart size is"
  " normal, as discussed. Small left effusion, seen at 9:30 a.m. No pneumothorax."
)


def test_report_text_takes_findings_and_the_last_impression():
  assert reports.report_text(REPORT) == TEXT
  assert reports.sections(REPORT)["examination"] == "CHEST (PA AND LAT)"


@pytest.mark.parametrize(
  ("report", "text"),
  [
    ("Clear  lungs.\n No edema.", "Clear lungs. No edema."),
    (" FINDNGS: Edema.\n IMPRESSON: Worse than ___.", "Edema. Worse."),
    (" FINDINGS/IMPRESSION: Edema.\n", "Edema."),
    (" CONCLUSION: Edema.\r\n", "Edema."),
    (" PORTABLE AP CHEST: Edema.\n", "Edema."),
    # Headings, but neither section: the last paragraph.
    (" CHEST, PA:\n \n INDICATION: Cough.\n \n Clear.\n \n No effusion.", None),
    (" INDICATION: Cough.\n", ""),
    (" WET READ: Edema.\n FINDINGS: \n", ""),
    (" PROVISIONAL FINDINGS IMPRESSION (PFI): Edema.\n IMPRESSION: None.", "None."),
    (" FINDINGS: Same.\n IMPRESSION: Same.", "Same."),
    ("", ""),
    # One line.
    (
      "EXAMINATION: CHEST (PA AND LAT) INDICATION: Cough. FINDINGS: Edema."
      " IMPRESSION: Worse. RECOMMENDATION: None.",
      "Edema. Worse.",
    ),
    ("FINAL REPORT HISTORY: Cough. IMPRESSION: Edema.", "Edema."),
    (" INDICATION: Cough, see FINDINGS.\n\n No edema.", "No edema."),
  ],
)
def test_report_text_falls_back_as_published_parsers_do(report, text):
  assert reports.report_text(report) == (
    "Clear. No effusion." if text is None else text
  )


def test_sentences_keep_abbreviations_and_decimals():
  assert reports.sentences(TEXT) == [
    "The lungs are clear.",
    "In comparison with the study, there is no change.",
    "Heart size is normal, as discussed.",
    "Small left effusion, seen at 9:30 a.m.",
    "No pneumothorax.",
  ]
  assert reports.sentences("A 1.5 cm mass, no. 3. Stable.") == [
    *("A 1.5 cm mass, no. 3.", "Stable."),
  ]


def test_caption_covers_long_reports_within_its_words():
  text = " ".join(f"Sentence number {n} says little." for n in range(40))
  captions = [reports.caption(text, str(seed)) for seed in range(300)]
  assert max(len(one.split()) for one in captions) <= reports.CAPTION_WORDS
  assert all(one in text for one in captions)
  seen = {part for one in captions for part in reports.sentences(one)}
  assert seen == set(reports.sentences(text))
  assert reports.caption("", "0") == ""
  assert captions[0] == reports.caption(text, "0")


def test_report_text_takes_linear_time():
  text = "of " * 40_000
  # Minutes, if each word could begin a mark that ends at the last one.
  assert reports.report_text(text) == text.strip()
