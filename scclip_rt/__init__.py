"""scclip-rt: open-vocabulary segmentation from SC-CLIP bundles, without torch."""

__version__ = "0.1.0"
