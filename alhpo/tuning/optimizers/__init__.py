"""The optimizers: what decides which configuration is trained next, and to which epoch."""
