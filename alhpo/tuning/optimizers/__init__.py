"""The optimizers: they decide which configuration is trained next, and to which epoch."""
