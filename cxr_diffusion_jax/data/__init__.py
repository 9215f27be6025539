"""Chest X-ray trees, records, embedding columns and the input pipeline."""
