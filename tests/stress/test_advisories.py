"""Which versions an advisory covers."""

import pytest

from tests.stress import advisories

RANGE = {
  "type": "ECOSYSTEM",
  "events": [{"introduced": "0"}, {"fixed": "1.10"}, {"introduced": "2.0"}],
}


@pytest.mark.parametrize(
  ("version", "expected"),
  [("1.9", True), ("1.10", False), ("1.12", False), ("2.1", True)],
)
def test_advisories_ranges_compare_versions_not_text(version, expected):
  assert advisories.is_affected({"ranges": [RANGE]}, version) == expected


def test_advisories_commits_are_no_versions_and_listed_versions_count():
  git = {"type": "GIT", "events": [{"introduced": "0"}]}
  affected = {"ranges": [git], "versions": ["1.0.post1"]}
  assert advisories.is_affected(affected, "1.0.post1")
  assert not advisories.is_affected(affected, "1.0")


@pytest.mark.parametrize(("version", "expected"), [("3.0", True), ("3.0.1", False)])
def test_advisories_last_affected_version_is_affected(version, expected):
  events = [{"introduced": "0"}, {"last_affected": "3.0"}]
  ranges = [{"type": "ECOSYSTEM", "events": events}]
  assert advisories.is_affected({"ranges": ranges}, version) == expected
