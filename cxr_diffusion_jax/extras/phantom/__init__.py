"""Procedural chest X-rays, and whole trees of them."""
