"""From class names to query embeddings (METHOD §3)."""
