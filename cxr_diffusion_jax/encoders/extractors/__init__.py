"""Frozen networks as feature extractors: images in, one vector each out."""
