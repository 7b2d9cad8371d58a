"""Labelling tools as clients: the routes and modules that each of them calls."""
