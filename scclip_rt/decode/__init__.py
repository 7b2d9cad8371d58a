"""From window cosines to labels (METHOD §4)."""
