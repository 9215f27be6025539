"""From a tree of X-rays to records, columns and stand-in encoders."""
