"""Videos and live cameras: frames in, label maps out, and windows that did not change kept (extra `video`, PyAV)."""

from scclip_rt.video.latest import LatestFrames
from scclip_rt.video.read import Frame, read_frames
from scclip_rt.video.reuse import FrameSegmenter, Reuse
from scclip_rt.video.write import MaskVideo, OverlayVideo, read_masks

__all__ = [
    "Frame",
    "FrameSegmenter",
    "LatestFrames",
    "MaskVideo",
    "OverlayVideo",
    "Reuse",
    "read_frames",
    "read_masks",
]
