"""From a checkpoint, in any of its layouts, to open_clip's modules."""
