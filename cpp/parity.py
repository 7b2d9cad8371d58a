"""Labels of scclip-segment-cpp against Python's on a bundle of any size: one photo, random queries, same threads.

python cpp/parity.py BUNDLE build/cpp/release/examples/scclip-segment-cpp; exits with 1 under 99.99 % of equal pixels.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from bench import make_inputs
from PIL import Image


def main() -> int:
    """Compare."""
    from scclip_rt import Segmenter

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle")
    parser.add_argument("program")
    parser.add_argument("--backend", default="onnxruntime")
    parser.add_argument("--queries", type=int, default=150)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        image, vocabulary = make_inputs(Path(folder), arguments.bundle, arguments.queries)
        command = [arguments.program, arguments.bundle, image, "--vocabulary", vocabulary, "--output", folder]
        command += ["--backend", arguments.backend, "--threads", str(arguments.threads)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        found = np.asarray(Image.open(Path(folder) / "photo.labels.png"))
        segment = Segmenter(
            arguments.bundle, vocabulary=vocabulary, backend=arguments.backend, threads=arguments.threads
        )
        expected = segment(image).labels
    agreement = float((found == expected).mean())
    print(json.dumps({"agreement": agreement, "classes": len(np.unique(expected)), "pixels": expected.size}))
    return 0 if agreement >= 0.9999 else 1


if __name__ == "__main__":
    sys.exit(main())
