"""Comparing several runs, or folders of images."""
