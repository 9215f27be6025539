"""BERT text encoders."""
