"""Feed mutated inputs to every reader of strangers' files: nothing but the project's own errors may come out.

    python tests/stress/fuzz_readers.py [--inputs 100000] [--seed 0] [READER …]

Exit code 1 on another exception, a call of more than five seconds, or more than 1 GB of memory. A failing input is kept
in the folder `fuzz-findings`. Seeds: the demo bundle's own files and small ones made here. What the libraries print on
standard error (Rust's panics among it) is theirs.
"""

import argparse
import io
import json
import random
import resource
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from types import FrameType

import numpy as np
from PIL import Image

from scclip_rt.backends.cuda.kernels import parse_kernel_list
from scclip_rt.bundle.engine_sidecar import parse_sidecar
from scclip_rt.bundle.manifest import parse_manifest
from scclip_rt.bundle.onnx_weights import external_locations
from scclip_rt.errors import ScclipError
from scclip_rt.evaluation.datasets.masks import MaskRule
from scclip_rt.evaluation.datasets.names import read_names
from scclip_rt.image.load import image_size, load_image
from scclip_rt.strict_json import parse_json
from scclip_rt.vocabulary.classes import parse_classes
from scclip_rt.vocabulary.file import load_vocabulary
from scclip_rt.vocabulary.templates import load_templates
from scclip_rt.vocabulary.tokenizer import Tokenizer

DEMO = Path(str(resources.files("scclip_rt"))) / "demo.scclip"
MOST_SECONDS = 5
MOST_BYTES = 1 << 30
_INTERESTING = (
    b"\0",
    b"\xff",
    b"\x7f",
    b"\x80",
    b"{",
    b"[" * 70,
    b"]",
    b'"',
    b",",
    b";",
    b"\n",
    b"\r",
    b"1e999",
    b"NaN",
)
_VALUES = (
    None,
    True,
    0,
    -1,
    2**31,
    2**63,
    10**30,
    1e308,
    224.0,
    "",
    "\ud800",
    "../x",
    [],
    {},
    [[]],
    "\x1b[2J",
)


def mutated(data: bytes, random_: random.Random, other: bytes) -> bytes:
    """A few random edits: bits, bytes, pieces taken out, doubled, or from another seed."""
    out = bytearray(data)
    for _ in range(random_.choice((1, 1, 2, 4, 8))):
        at = random_.randrange(len(out) + 1)
        match random_.randrange(7):
            case 0 if out:
                out[at % len(out)] ^= 1 << random_.randrange(8)
            case 1 if out:
                out[at % len(out)] = random_.randrange(256)
            case 2:
                out[at:at] = random_.choice(_INTERESTING)
            case 3:
                del out[at : at + random_.choice((1, 2, 8, 64))]
            case 4:
                out[at:at] = out[at : at + random_.choice((1, 4, 16, 64))]
            case 5:
                start = random_.randrange(len(other) + 1)
                out[at : at + 16] = other[start : start + 16]
            case _ if random_.random() < 0.2:
                del out[at:]
    return bytes(out)


def mutated_json(document: object, random_: random.Random) -> object:
    """The document with one value, somewhere, replaced, removed or doubled."""
    copy = json.loads(json.dumps(document))
    parent, key, value = None, None, copy
    while isinstance(value, dict | list) and value and (parent is None or random_.random() < 0.85):
        parent = value
        key = random_.choice(list(value)) if isinstance(value, dict) else random_.randrange(len(value))
        value = value[key]
    if parent is None:
        return random_.choice(_VALUES)
    if random_.random() < 0.2:
        del parent[key]
    else:
        parent[key] = random_.choice(_VALUES)
    return copy


def _with_file(read: Callable[[Path], object], suffix: str) -> Callable[[bytes], object]:
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="scclip-fuzz-", dir=memory if memory.is_dir() else None))

    def run(data: bytes) -> object:
        path = folder / f"input{suffix}"
        path.write_bytes(data)
        return read(path)

    return run


def _images() -> list[bytes]:
    pixels = np.random.default_rng(0).integers(0, 256, (9, 13, 3), np.uint8)
    seeds = []
    for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM"):
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, kind)
        seeds.append(stream.getvalue())
    return seeds


def _masks() -> list[bytes]:
    seeds = []
    for kind, mode in (
        ("PNG", "L"),
        ("PNG", "P"),
        ("PNG", "1"),
        ("PNG", "I;16"),
        ("TIFF", "L"),
        ("PPM", "L"),
        ("BMP", "P"),
    ):
        stream = io.BytesIO()
        Image.new(mode, (7, 5)).save(stream, kind)
        seeds.append(stream.getvalue())
    return seeds


_SIDECAR = {
    "format_version": 1, "file": "engines/a.engine", "sha256": "0" * 64, "bytes": 3, "library": "tensorrt",
    "library_version": "10.9.0", "compute_capabilities": ["8.9"], "precision": "fp16", "device": "X",
    "source": "encoder.fp32.onnx", "source_sha256": "0" * 64, "grid": {"kind": "window", "rows": 14, "columns": 14},
    "profile": {"batch": [1, 6, 16], "queries": [1, 150, 1024]}, "options": {}, "layer_precisions": {}, "command": "x",
}  # fmt: skip
_KERNEL = {
    "name": "decode", "file": "kernels/a.cubin", "compute_capability": "8.9", "entry": "k", "num_warps": 4,
    "shared_bytes": 0, "parameters": [["x", "*fp32"]], "constants": {"B": 1}, "hidden_pointers": 0,
}  # fmt: skip


def _tokenizer(data: bytes) -> None:
    Tokenizer.from_json(data.decode("utf-8", "replace")).encode(["a photo of a cat"])


def _small_tokenizer() -> bytes:
    document = json.loads((DEMO / "tokenizer.json").read_text("utf-8"))
    vocabulary = dict(list(document["model"]["vocab"].items())[:600])
    document["model"]["vocab"] = vocabulary
    document["model"]["merges"] = document["model"]["merges"][:80]
    return json.dumps(document).encode()


def _class_text() -> list[bytes]:
    return [
        b"cat\ndog, puppy\n# x\n", "café; caf&eacute;x\n\u2028a\n".encode(), b'"dog, puppy"\n"a ""b"""\n',
        b"a {}.\nthe {}\n",
    ]  # fmt: skip


def _small_mask(rule: MaskRule, path: Path) -> None:
    """A sound header may announce 128 megapixels, whose reading takes seconds and is no hang: those are left out."""
    size = image_size(path)
    if size is None or size[0] * size[1] <= 1_000_000:
        rule.read(path)


Reader = tuple[Callable[[bytes], object], list[bytes], bool]


def readers() -> dict[str, Reader]:
    """Name → what reads bytes, its seeds, and whether they are JSON."""
    rule = MaskRule(num_classes=4)
    listed = json.dumps({"images": [{"file_name": "a/b.jpg"}, {"file_name": "c.png"}]}).encode()
    return {
        "json": (parse_json, [(DEMO / "bundle.json").read_bytes(), json.dumps(_SIDECAR).encode()], True),
        "manifest": (parse_manifest, [(DEMO / "bundle.json").read_bytes()], True),
        "sidecar": (parse_sidecar, [json.dumps(_SIDECAR).encode()], True),
        "kernels": (parse_kernel_list, [json.dumps([_KERNEL]).encode()], True),
        "onnx": (_with_file(external_locations, ".onnx"), [(DEMO / "text_encoder.onnx").read_bytes()], False),
        "classes": (_with_file(parse_classes, ".txt"), _class_text(), False),
        "csv": (_with_file(parse_classes, ".csv"), _class_text(), False),
        "templates": (_with_file(load_templates, ".txt"), _class_text(), False),
        "names": (_with_file(read_names, ".json"), [listed], True),
        "vocabulary": (
            _with_file(load_vocabulary, ".safetensors"),
            [(DEMO / "vocabularies" / "classes.safetensors").read_bytes()],
            False,
        ),
        "tokenizer": (_tokenizer, [_small_tokenizer()], True),
        "image": (lambda data: load_image(data, max_pixels=1_000_000), _images(), False),
        "mask": (_with_file(lambda path: _small_mask(rule, path), ".png"), _masks(), False),
    }


class _TooLong(BaseException):
    """A call took more than `MOST_SECONDS`."""


def _alarm(_: int, __: FrameType | None) -> None:
    raise _TooLong


def fuzz(name: str, reader: Reader, inputs: int, seed: int) -> bool:
    """Whether the reader passed; prints a line."""
    read, seeds, is_json = reader
    random_ = random.Random(f"{name}-{seed}")
    documents = [json.loads(data) for data in seeds] if is_json else []
    refused, slowest, started = 0, 0.0, time.monotonic()
    for number in range(inputs):
        if documents and number % 2:
            data = json.dumps(mutated_json(random_.choice(documents), random_)).encode(
                "utf-8", "surrogatepass"
            )
        else:
            data = mutated(random_.choice(seeds), random_, random_.choice(seeds))
        before = time.monotonic()
        signal.setitimer(signal.ITIMER_REAL, MOST_SECONDS)
        try:
            read(data)
        except ScclipError:
            refused += 1
        except ValueError as error:
            if read is not parse_json:
                return _finding(name, number, data, error)
            refused += 1
        except BaseException as error:  # a panic is one, too long another
            if isinstance(error, KeyboardInterrupt):
                raise
            return _finding(name, number, data, error)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        slowest = max(slowest, time.monotonic() - before)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    seconds = time.monotonic() - started
    print(
        f"{name}: {inputs:,} inputs, {refused:,} refused, {seconds:.0f} s, slowest {slowest:.2f} s, "
        f"peak {memory >> 20} MB",
        flush=True,
    )
    return memory <= MOST_BYTES


def _finding(name: str, number: int, data: bytes, error: BaseException) -> bool:
    folder = Path("fuzz-findings")
    folder.mkdir(exist_ok=True)
    (folder / f"{name}-{number}").write_bytes(data)
    print(
        f"{name}: input {number}: {type(error).__name__}: {str(error)[:300]} ({folder}/{name}-{number})",
        flush=True,
    )
    return False


def main() -> None:
    """Run the readers that the command line names, or all."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("readers", metavar="READER", nargs="*", help=", ".join(readers()))
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    signal.signal(signal.SIGALRM, _alarm)
    warnings.simplefilter("ignore")  # Pillow's and numpy's on damaged values
    chosen = {name: reader for name, reader in readers().items() if not args.readers or name in args.readers}
    results = [fuzz(name, reader, args.inputs, args.seed) for name, reader in chosen.items()]
    sys.exit(0 if all(results) else 1)


if __name__ == "__main__":
    main()
