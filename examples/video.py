"""Segment a video file, a camera or a network stream, frame by frame.

    python examples/video.py demo film.mp4 --output film-labels.mp4
    python examples/video.py vitb16.scclip /dev/video0 --classes "person; cup; keyboard" --frames 100
    python examples/video.py vitb16.scclip rtsp://camera/stream --classes "road; car; person"

Needs the extra `video` (PyAV). From a live source the newest frame is taken and older ones are dropped, so that labels
never lag behind. Windows that did not change since the last frame keep their features.
"""

import argparse
import contextlib
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path

from scclip_rt import Segmenter
from scclip_rt.video import Frame, FrameSegmenter, LatestFrames, OverlayVideo, read_frames


def frames_of(source: str) -> Iterator[Frame]:
    """Every frame of a file; the newest frame of anything live."""
    if Path(source).is_file():
        yield from read_frames(source)
        return
    with LatestFrames(read_frames(source)) as frames:
        yield from frames


def main() -> int:
    """Parse, segment, print; write the overlays if asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", help="bundle directory, or demo for the packaged one")
    parser.add_argument("source", help="a video file, a camera's device file, or an address")
    parser.add_argument("--classes", help='names: "sky; grass, lawn"; default: those of the bundle')
    parser.add_argument("--frames", type=int, help="stop after so many")
    parser.add_argument("--output", type=Path, help="write the overlays as a video")
    args = parser.parse_args()

    step = FrameSegmenter(Segmenter(args.bundle, classes=args.classes), reuse="exact")
    with contextlib.ExitStack() as stack:
        video = None if args.output is None else stack.enter_context(OverlayVideo(args.output))
        for frame in itertools.islice(frames_of(args.source), args.frames):
            result = step(frame.image)
            if video is not None:
                video.add(result, frame)
            largest = list(result.shares().items())[:3]
            print(
                f"frame {frame.number}:",
                ", ".join(f"{name} {share:.0%}" for name, share in largest),
                flush=True,
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
