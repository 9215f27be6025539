"""A few files of each reader through `fuzz.py`, which reads thousands when asked to."""

import sys

import pytest

from tests.stress import fuzz, fuzz_readers


@pytest.mark.skipif(sys.platform != "linux", reason="limits and /proc of Linux")
def test_fuzz_finds_no_fault(tmp_path):
  # Networks of pipelines are traced for each file, which takes too long here.
  readers = [name for name in fuzz_readers.READERS if name != "pipeline"]
  outcomes = fuzz.fuzz(readers, 20, 7, tmp_path)
  assert [outcome for outcome in outcomes if outcome.kind == "fault"] == []
  for reader in readers:
    kinds = [outcome.kind for outcome in outcomes if outcome.reader == reader]
    assert len(kinds) == 20
    assert {"read", "refused"} == {*kinds}
