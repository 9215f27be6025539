"""Device meshes and the placement of parameters and batches on them."""
