"""From an image file to the windows that an encoder takes (METHOD §1, §7)."""
