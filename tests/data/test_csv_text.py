"""`data/csv_text.py`: what spreadsheets read, and do not run."""

from cxr_diffusion_jax.data import csv_text


def test_csv_text_gives_spreadsheets_no_formulas():
  rows = [
    ["=HYPERLINK(1)", "+1-cmd", "-no effusion", "@SUM(A1)", "\tx", "a=b"],
    ["-1.5", "+2", -3, None, "", "'=x"],
  ]
  assert csv_text.csv_text(rows).splitlines() == [
    "'=HYPERLINK(1),'+1-cmd,'-no effusion,'@SUM(A1),'\tx,a=b",
    "-1.5,+2,-3,,,'=x",
  ]
