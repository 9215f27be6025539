"""Flax Linen networks and the codecs between pixels and what they denoise."""
