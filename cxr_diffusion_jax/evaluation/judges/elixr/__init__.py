"""ELIXR as a judge: zero-shot margins, and classifiers of its embeddings."""
