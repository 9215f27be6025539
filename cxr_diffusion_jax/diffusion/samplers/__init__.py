"""Samplers: each class with a `name` in a module here is found by that name."""
