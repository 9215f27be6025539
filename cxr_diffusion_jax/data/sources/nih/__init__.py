"""NIH ChestX-ray14, with Google's expert labels."""
