"""CLIP text and vision encoders."""
