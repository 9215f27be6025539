"""The page of a comparison: one HTML file, figures and tables."""
