"""Finding the files of an NIH tree, in every form that copies of it take."""

from pathlib import Path

import pytest

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.data.sources.nih import layout


@pytest.mark.parametrize(
  "folder",
  [
    "original",
    "original/images_001/images",
    "images",
    "images_001/images",
    "24x24",
    "images-24/images-24",
  ],
)
def test_images_are_found_flat_and_nested(make_tree, folder):
  small = make_tree(folder=folder)
  tree = layout.find_tree(small.root)
  assert sorted(tree.resolve(24)) == sorted(small.ids)
  path = tree.resolve(24)[small.ids[3]]
  assert path == str(small.root / folder / f"{small.ids[3]}.png")


def test_find_tree_prefers_the_wanted_then_a_larger_size(make_tree):
  small = make_tree(size=8)
  first, second, third = small.ids[:3]
  for size, stems in ((16, [first]), (32, [first, second]), (64, [second, third])):
    (small.root / f"{size}x{size}").mkdir()
    for stem in stems:
      (small.root / f"{size}x{size}" / f"{stem}.png").write_bytes(b"")
  tree = layout.find_tree(small.root)
  folders = [Path(tree.resolve(32)[stem]).parent.name for stem in small.ids[:4]]
  assert folders == ["32x32", "32x32", "64x64", "images"]
  assert Path(tree.resolve(65)[first]).parent.name == "images"


def test_find_tree_never_uses_smaller_copies(make_tree):
  small = make_tree(folder="24x24")
  assert layout.find_tree(small.root).resolve(25) == {}


def test_find_tree_finds_labels_and_lists(make_tree):
  small = make_tree()
  official = small.root / "BBox_List_2017_Official_NIH.csv"
  official.write_text("Image Index\n")
  assert layout.find_tree(small.root).boxes == official
  (small.root / "BBox_List_2017.csv").write_text("Image Index\n")
  tree = layout.find_tree(small.root)
  assert tree.boxes == small.root / "BBox_List_2017.csv"
  assert tree.train_val_list == small.root / "train_val_list.txt"
  assert [path.name for path in tree.google_labels] == [
    "test_labels.csv",
    "validation_labels.csv",
  ]


@pytest.mark.parametrize("name", ["test_list.txt", "BBox_List_2017.csv"])
def test_find_tree_refuses_lists_that_are_lost(make_tree, name):
  root = make_tree().root
  (root / name).unlink(missing_ok=True)
  (root / name).symlink_to("/gone")
  with pytest.raises(errors.InputError, match=f"{name} is a link to nothing"):
    layout.find_tree(root)


def test_find_tree_prefers_the_corrected_csv(make_tree):
  small = make_tree()
  (small.root / "Data_Entry_2017_v2020.csv").write_text("")
  assert layout.find_tree(small.root).data_entry.name == "Data_Entry_2017_v2020.csv"


def test_find_tree_ignores_other_files(make_tree):
  small = make_tree(folder="original")
  for name in ("._00000001_000.png", "list.txt", ".00000001_000.partial", "png"):
    (small.root / "original" / name).write_bytes(b"")
  assert sorted(layout.find_tree(small.root).originals) == sorted(small.ids)


def test_find_tree_refuses_a_missing_root(tmp_path):
  with pytest.raises(errors.InputError, match=r"no such folder: data root .*/absent"):
    layout.find_tree(tmp_path / "absent")
  (tmp_path / "file").write_text("")
  with pytest.raises(errors.InputError, match="not a folder"):
    layout.find_tree(tmp_path / "file")


def test_find_tree_refuses_a_root_without_images(tmp_path):
  (tmp_path / "original").mkdir()
  (tmp_path / "Data_Entry_2017.csv").write_text("")
  with pytest.raises(errors.InputError, match="no images under"):
    layout.find_tree(tmp_path)


def test_find_tree_refuses_a_root_without_csv(make_tree):
  small = make_tree()
  (small.root / "Data_Entry_2017.csv").unlink()
  with pytest.raises(errors.InputError, match="no Data_Entry CSV"):
    layout.find_tree(small.root)
