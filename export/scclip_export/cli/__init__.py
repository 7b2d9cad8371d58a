"""The command `scclip-export`."""
