"""Baked files in the formats of other engines, each compared in its own runtime before it is kept (docs/baking.md)."""
