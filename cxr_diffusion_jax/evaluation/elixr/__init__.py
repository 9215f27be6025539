"""ELIXR as a judge: by two sentences a finding, and by a classifier of embeddings."""
