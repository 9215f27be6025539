"""The encoders that make columns: each module is one, found by its name."""
