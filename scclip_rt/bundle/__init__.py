"""A bundle on disk: what it lists, its hashes, and which of its engines fits a GPU."""
