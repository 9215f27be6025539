"""Optional tools: phantoms, autoencoder training, reader studies, cost."""
