"""Downloads of images, labels and embeddings."""
