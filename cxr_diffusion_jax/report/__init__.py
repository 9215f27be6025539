"""HTML pages, figures and tables of runs and comparisons."""
