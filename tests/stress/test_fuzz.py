"""A few files of each reader through `fuzz.py`, which reads thousands when asked to."""

import sys

import pytest

from tests.stress import fuzz, fuzz_readers


@pytest.mark.skipif(sys.platform != "linux", reason="limits and /proc of Linux")
def test_fuzz_finds_no_fault(tmp_path):
  outcomes = fuzz.fuzz(list(fuzz_readers.READERS), 20, 7, tmp_path)
  assert [outcome for outcome in outcomes if outcome.kind == "fault"] == []
  for reader in fuzz_readers.READERS:
    kinds = [outcome.kind for outcome in outcomes if outcome.reader == reader]
    assert len(kinds) == 20
    assert {"read", "refused"} == {*kinds}
