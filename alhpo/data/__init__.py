"""Image data sets, their sources and batches, and the pool of images to label."""
