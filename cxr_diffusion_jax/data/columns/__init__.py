"""Columns: one array a row, in the records' row order."""
