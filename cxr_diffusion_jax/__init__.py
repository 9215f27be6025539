"""Diffusion models of chest X-rays, conditioned on text, images and ELIXR."""
