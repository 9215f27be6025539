"""Readers and a writer of ELIXR embedding files."""
