"""`data/file_search.py`: each file once, however folders are linked."""

import pathlib

from cxr_diffusion_jax.data import file_search


def test_find_files_ends_in_loops_of_links(tmp_path):
  folder = tmp_path / "a/b"
  folder.mkdir(parents=True)
  (folder / "x.png").touch()
  (folder / "up").symlink_to(tmp_path)
  (folder / "self").symlink_to("self")
  (tmp_path / "again").symlink_to(".")
  (tmp_path / "linked").symlink_to("a/b")
  files = file_search.find_files(tmp_path, (".png",), depth=30)
  names = sorted(str(pathlib.Path(path).relative_to(tmp_path)) for path in files)
  assert names == ["a/b/x.png", "linked/x.png"]
