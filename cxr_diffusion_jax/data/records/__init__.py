"""Base records of a tree: images and labels in ArrayRecord files."""
