"""The demo: scenes the project renders itself, for which its demo model was trained."""
