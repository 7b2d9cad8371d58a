"""The operations of SC-CLIP (arXiv 2411.15869) as batched, traceable torch functions."""
