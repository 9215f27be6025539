"""Classifiers trained on synthetic images, tested on real ones."""
