"""Distance to training images, copies, and membership."""
