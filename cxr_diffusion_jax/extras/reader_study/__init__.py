"""Blinded reader studies: a sheet, its separate key, and scoring of the answers."""
