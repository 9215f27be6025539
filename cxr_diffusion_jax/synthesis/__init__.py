"""Synthetic datasets of a trained run: planned, filtered, and written as a tree."""
