"""Weights of other libraries, in and out; no library of theirs is needed for it."""
