"""Frozen encoders of text and images, and the columns that they write."""
