"""Conditioning paths: one file a path, each exporting `Conditioner`."""
