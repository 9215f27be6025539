"""Generating images from a trained run, and judging them."""
