"""Data sources: one module or package each."""
