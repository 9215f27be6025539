"""Sets of images with their labels, from records or folders."""
