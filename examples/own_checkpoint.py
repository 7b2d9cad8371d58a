"""Export your own CLIP checkpoint from Python, and see what the calibration brings on an image.

    python examples/own_checkpoint.py benchmarks/demo/demo_clip.safetensors scclip_rt/demo/scene.png out
    python examples/own_checkpoint.py ViT-B-16.pt photo.jpg out --classes "sky; grass, lawn; dog, puppy"

Needs the extra `export` (torch). Writes two bundles from the same weights: calibrated as SC-CLIP does, and the values
of the last block alone (MaskCLIP). Every export is compared with the torch model before its bundle appears.
"""

import argparse
import sys
from pathlib import Path

from scclip_export.checkpoint.load_model import Source
from scclip_export.options import ExportConfig
from scclip_export.pipeline import export_bundle
from scclip_rt import Segmenter


def main() -> int:
    """Parse, export twice, segment with both."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", type=Path, help=".pt or .safetensors, see docs/export.md")
    parser.add_argument("image", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--classes", default="grass; giraffe; tartan; sky; sand; wood")
    args = parser.parse_args()

    args.output.mkdir(parents=True, exist_ok=True)
    for method in ("scclip", "maskclip"):
        config = ExportConfig(
            source=Source(checkpoint=args.checkpoint),
            output=args.output / f"{method}.scclip",
            method=method,
            force=True,
        )
        report = export_bundle(config, progress=lambda line: print(line, file=sys.stderr))
        for name, parity in report.parity:
            print(f"{method}, {name}: features within {parity.features_max_abs:.1e} of torch")
        result = Segmenter(report.path, classes=args.classes)(args.image)
        result.save(args.output, method, force=True)
        print(method, {name: round(share, 3) for name, share in result.shares().items() if share > 0.01})
    return 0


if __name__ == "__main__":
    sys.exit(main())
