"""C++ against Python on a bundle of any size: one photo, random queries, the same library and threads.

python cpp/parity.py build/cpp/release BUNDLE [--backend NAME --precision NAME]; the build is that of cpp/test.sh. With
--method NAME instead of BUNDLE a ViT-B/16 of synthetic weights is exported by that method first. Exits with 1 under
99.99 % of equal labels, or where features or logits differ by more than 1e-5. Where Python's own labels change when
every feature moves by its last bit (GEM's stretched maps are close at an image's edges), as many and as many again may
differ besides: `own_agreement` tells.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from bench import make_inputs
from PIL import Image

LARGEST_GAP = 1e-5
LEAST_AGREEMENT = 0.9999


def main() -> int:
    """Compare; 0 or 1."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("build", type=Path)
    parser.add_argument("bundle", nargs="?")
    parser.add_argument("--method")
    parser.add_argument("--backend", default="onnxruntime")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--queries", type=int, default=150)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    if (arguments.bundle is None) == (arguments.method is None):
        parser.error("give either BUNDLE or --method")
    with tempfile.TemporaryDirectory() as folder:
        if arguments.method is not None:
            arguments.bundle = export(arguments.method, Path(folder))
        found = compare(arguments, Path(folder))
    print(json.dumps(found))
    gaps = max(found["largest_feature_gap"], found["largest_logit_gap"])
    least = LEAST_AGREEMENT - 2 * (1 - found["own_agreement"])
    return 0 if found["agreement"] >= least and gaps <= LARGEST_GAP else 1


def export(method: str, folder: Path) -> str:
    """A synthetic ViT-B/16 as FOLDER/METHOD.scclip."""
    from safetensors.numpy import save_file

    from scclip_export.cli.main import run
    from synthetic import clip_state_dict

    checkpoint, bundle = folder / "vitb16.safetensors", folder / f"{method}.scclip"
    save_file(clip_state_dict("vitb16"), checkpoint)
    options = f"--backbone vitb16 --checkpoint {checkpoint} --calibration {method} --output {bundle}"
    if run(options.split()) != 0:
        raise SystemExit(f"the export of {method} failed")
    return str(bundle)


def compare(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Labels by scclip-segment-cpp, features by tests/encode_features; Python's from the same file."""
    from scclip_rt import Segmenter

    image, vocabulary = make_inputs(folder, arguments.bundle, arguments.queries)
    backend, precision, threads = arguments.backend, arguments.precision, arguments.threads
    options = ["--backend", backend, "--precision", precision, "--threads", str(threads)]
    program = str(arguments.build / "examples/scclip-segment-cpp")
    command = [
        program,
        arguments.bundle,
        image,
        "--vocabulary",
        vocabulary,
        "--output",
        str(folder),
        *options,
    ]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    labels = np.asarray(Image.open(folder / "photo.labels.png"))

    pixels = np.asarray(Image.open(image).convert("RGB"))
    pixels.tofile(folder / "pixels")
    height, width, _ = pixels.shape
    program = str(arguments.build / "tests/encode_features")
    command = [program, arguments.bundle, str(folder / "pixels"), str(height), str(width), backend, precision]
    subprocess.run([*command, str(threads), str(folder / "features")], check=True)

    segmenter = Segmenter(
        arguments.bundle, vocabulary=vocabulary, backend=backend, precision=precision, threads=threads
    )
    encoded = segmenter.encode(pixels)
    expected = segmenter.decode(encoded).labels
    features = np.fromfile(folder / "features", np.float32).reshape(encoded.features.shape)
    moved = replace(encoded, features=np.nextafter(encoded.features, np.float32(np.inf)))
    own = segmenter.decode(moved).labels
    text = segmenter.vocabulary.embeddings.T
    return {
        "bundle": Path(arguments.bundle).name,
        "backend": backend,
        "precision": precision,
        "threads": threads,
        "queries": arguments.queries,
        "pixels": expected.size,
        "classes": len(np.unique(expected)),
        "agreement": float((labels == expected).mean()),
        "own_agreement": float((own == expected).mean()),
        "largest_feature_gap": float(np.abs(features - encoded.features).max()),
        "largest_logit_gap": float(np.abs(features @ text - encoded.features @ text).max()),
    }


if __name__ == "__main__":
    sys.exit(main())
