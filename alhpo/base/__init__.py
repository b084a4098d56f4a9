"""Types, errors, protocols, random streams, files, validation of settings, the registry: what every other room uses."""
