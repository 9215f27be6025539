"""A small tree and the settings of its records."""

import pytest

from tests.data.record_settings import RecordSettings


@pytest.fixture
def settings(make_tree, tmp_path) -> RecordSettings:
  small = make_tree()
  return RecordSettings(root=small.root, folder=tmp_path / "records", image_size=16)
