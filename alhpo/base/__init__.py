"""What every other room uses: types, errors, protocols, random streams, files, the registry."""
