"""The runtime inside other people's systems."""
