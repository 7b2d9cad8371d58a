"""What the Python runtime computes and refuses, written to a folder that the C++ tests compare with.

Call it as `make_fixtures.py --export-only FOLDER` for the tiny model of tests/synthetic.py (FOLDER/tiny.scclip, and
by every other method FOLDER/METHOD.scclip), and as `make_fixtures.py FOLDER --bundle DIR --methods DIR` for the rest.
"""

import argparse
import functools
import json
import multiprocessing
import os
import shutil
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "kernels"), str(ROOT / "export")]

from fixture_arrays import Fixtures  # noqa: E402
from python_engines import (  # noqa: E402
    capability_cases,
    choice_cases,
    engine_cases,
    engine_choice_cases,
    kernel_bundle,
    tuned_case,
)
from python_images import image_claims, image_file_cases, image_refusals  # noqa: E402
from python_results import (  # noqa: E402
    METHODS,
    THREADS,
    alone_case,
    decode_cases,
    embedded_case,
    golden_cases,
    int8_cases,
    method_cases,
    nv12_case,
    refine_cases,
    resize_cases,
    token_cases,
)

from refusals import build_bundles, build_vocabularies, table  # noqa: E402
from scclip_rt.vocabulary.templates import TEMPLATE_SETS  # noqa: E402
from synthetic import clip_state_dict  # noqa: E402


def export(folder: Path) -> None:
    """The tiny synthetic model as FOLDER/tiny.scclip, and by every other method as FOLDER/METHOD.scclip."""
    from safetensors.numpy import save_file

    checkpoint = folder / "tiny.safetensors"
    save_file({name: np.array(value) for name, value in clip_state_dict("tiny").items()}, checkpoint)
    workers = min(4, os.cpu_count() or 1)  # 1 GB each
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        list(pool.map(functools.partial(export_by, checkpoint), METHODS))


def export_by(checkpoint: Path, method: str) -> None:
    """Export beside the checkpoint."""
    from scclip_export.cli.main import run

    bundle = checkpoint.with_name(f"{'tiny' if method == 'scclip' else method}.scclip")
    options = f"--checkpoint {checkpoint} --calibration {method} --output {bundle} --dynamic-grid"
    options += " --int8-text" if method == "scclip" else ""
    if run(options.split()) != 0:
        raise RuntimeError(f"the export of {method} failed")


def main() -> None:
    """Write everything."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--methods", type=Path)
    parser.add_argument("--export-only", action="store_true")
    arguments = parser.parse_args()
    if arguments.export_only:
        export(arguments.folder)
        return
    if arguments.bundle is None or arguments.methods is None:
        parser.error("name a bundle with --bundle, and the folder of the methods' with --methods")
    shutil.rmtree(arguments.folder, ignore_errors=True)
    arguments.folder.mkdir(parents=True)
    folder = arguments.folder.resolve()
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
    bundle = arguments.bundle.resolve()
    out = Fixtures(folder)
    build_bundles(folder / "bundles")
    build_vocabularies(folder / "vocabularies")
    document = {
        "bundle": str(bundle),
        "refusals": table(),
        "threads": THREADS,
        "resize": resize_cases(),
        "decode": decode_cases(out),
        "refine": refine_cases(out),
        "golden": golden_cases(out, bundle),
        "engines": engine_cases(folder / "engines"),
        "kernels": kernel_bundle(folder / "kernels.scclip"),
        "earlier_kernels": kernel_bundle(folder / "earlier_kernels.scclip", earlier=True),
        "choices": choice_cases(),
        "engine_choices": engine_choice_cases(folder / "engines"),
        "capabilities": capability_cases(),
        "image_files": image_file_cases(out),
        "image_refusals": image_refusals(folder / "refused"),
        "image_claims": image_claims(folder / "claims"),
        "nv12": nv12_case(out),
        "tokens": token_cases(bundle),
        "embedded": embedded_case(out, bundle),
        "int8": int8_cases(out),
        "templates": TEMPLATE_SETS,
        "methods": method_cases(out, arguments.methods.resolve()),
        "alone": alone_case(out, arguments.methods.resolve()),
    }
    document["tuned"] = tuned_case(bundle)
    (folder / "fixtures.json").write_text(json.dumps(document))


if __name__ == "__main__":
    main()
