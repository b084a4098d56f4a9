"""Types, errors, protocols, random streams, files and the registry, for all other packages."""
