"""What is waited for before and between photos, beside another checkout of this repository, in pairs.

    python -m benchmarks.cpu.first_use OTHER_CHECKOUT [--what names name fresh photo command write export narrow]
        [--pairs 3] [--names 150]

`export`: a plain export of the model; `narrow`: one with --bf16 --int8 --dynamic-grid. `names`: ADE20K's class names in
80 templates, text encoder loaded and all. `name`: one new name in a segmenter that has embedded others. `fresh`: one in
a process of its own, which an earlier one has embedded others in. `photo`: from
the import to the labels of a first photo. `command`: `scclip segment demo SCENE`. `write`: labels and overlay of a
photo of 12 megapixels. Each measurement is a process of its own.
The processor's time is what counts here, user and system together. Beside other work it grows, an export's from 36 to
66 s, so keep the machine quiet. First the gate: embeddings within 1e-6, labels equal, and image encoders of the same
operators. Each side embeds with the bundle that its own exporter wrote, from the same checkpoint.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from PIL import Image

from benchmarks.harness import parser, ratios, spread, write_report
from benchmarks.models import checkpoint, photo, work_folder

HERE = Path(__file__).resolve().parents[2]
NARROW = ("--bf16", "--int8", "--dynamic-grid")
RUNS = ("names", "name", "fresh", "photo", "command", "write", "export", "narrow")
_EMBED = """
import sys, time, numpy as np
from pathlib import Path
from scclip_rt import Segmenter
bundle, classes, target, known, count = sys.argv[1:]
segment = Segmenter(bundle, classes="sky; grass", cache=False)
names = [line.split(",")[0] for line in Path(classes).read_text().splitlines() if line.strip()]
names = names[: int(count)]
if known == "known":
    segment.set_classes(["a lamp post"], background="none")  # what is loaded once, is
    names = ["zebra"]
start, used = time.perf_counter(), time.process_time()
segment.set_classes(names, background="none")
print(time.perf_counter() - start, time.process_time() - used)
np.save(target, segment.vocabulary.embeddings)
"""
_FRESH = """
import sys, time, numpy as np
from scclip_rt import Segmenter
segment = Segmenter(sys.argv[1], classes="zebra; giraffe")
start, used = time.perf_counter(), time.process_time()
segment.set_classes([sys.argv[3]], background="none")
print(time.perf_counter() - start, time.process_time() - used)
np.save(sys.argv[2], segment.vocabulary.embeddings)
"""
_PHOTO = """
import sys, numpy as np
from scclip_rt import Segmenter
segment = Segmenter(sys.argv[1], vocabulary=sys.argv[4])
np.save(sys.argv[3], segment(sys.argv[2]).labels)
"""
_WRITE = """
import sys, time, numpy as np
from PIL import Image
from scclip_rt.segmentation import Segmentation
picture, size = Image.open(sys.argv[1]).convert("RGB"), (4000, 3000)
labels = np.asarray(picture.convert("L").resize((40, 30)).resize(size, Image.Resampling.BICUBIC)) // 43
result = Segmentation(labels=labels, classes=tuple("abcdef"), unlabelled=255, image=np.asarray(picture.resize(size)))
result.save(sys.argv[2], "first", force=True)
start, used = time.perf_counter(), time.process_time()
result.save(sys.argv[2], "photo", force=True)
print(time.perf_counter() - start, time.process_time() - used)
"""


def run(tree: Path, *words: object, cache: Path | None = None) -> tuple[float, float, str]:
    """Run Python with a checkout's packages: seconds by the clock, seconds of the processor, what it printed.

    Args:
        tree: the checkout.
        words: the command line behind the interpreter.
        cache: a folder for what is kept between runs; None for the usual one.
    """
    packages = os.pathsep.join(map(str, (tree, tree / "export", tree / "kernels")))
    environment = os.environ | {"PYTHONPATH": packages}
    if cache is not None:
        environment["XDG_CACHE_HOME"] = str(cache)
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # what is installed is compiled
    before, start = os.times(), time.perf_counter()
    done = subprocess.run(
        [sys.executable, *map(str, words)],
        env=environment,
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"error: {tree}: {done.stderr.strip().splitlines()[-1:]}; nothing is told about time")
    after = os.times()
    used = after.children_user - before.children_user + after.children_system - before.children_system
    return time.perf_counter() - start, used, done.stdout


def export(tree: Path, model: str, work: Path, target: Path, options: tuple[str, ...]) -> tuple[float, float]:
    """Export the model with a checkout's exporter."""
    line = (
        "--checkpoint",
        checkpoint(model, work),
        "--activation",
        "quickgelu",
        "--output",
        target,
        "--force",
    )
    seconds, used, _ = run(tree, "-m", "scclip_export.cli.main", *line, *options)
    return seconds, used


def operators(bundle: Path) -> dict[str, Counter[str]]:
    """The operators of every image encoder of a bundle; what texts become is compared by `names`."""
    return {
        path.name: Counter(node.op_type for node in onnx.load(path, load_external_data=False).graph.node)
        for path in sorted(bundle.glob("encoder.*.onnx"))
    }


class Side:
    """One checkout with the bundle that it exported."""

    def __init__(self, tree: Path, model: str, work: Path, folder: Path, *, names: int) -> None:
        self.tree, self.model, self.work, self.folder, self.names = tree, model, work, folder, names
        folder.mkdir()
        self.bundle = folder / f"{model}.scclip"
        self.result = folder / "result.npy"
        self.asked = 0

    def told(self, script: str, *words: object, cache: Path | None = None) -> tuple[float, float]:
        """Seconds by the clock and of the processor that a script prints last."""
        printed = run(self.tree, "-c", script, *words, cache=cache)[2]
        seconds, used = map(float, printed.split()[-2:])
        return seconds, used

    def measure(self, what: str) -> tuple[float, float]:
        """Seconds by the clock and of the processor of one run."""
        classes = HERE / "scclip_rt/evaluation/classes/ade20k.txt"
        if what in ("export", "narrow"):
            return export(self.tree, self.model, self.work, self.bundle, NARROW if what == "narrow" else ())
        if what in ("names", "name"):
            known = "known" if what == "name" else "new"
            return self.told(_EMBED, self.bundle, classes, self.result, known, self.names)
        if what == "fresh":
            self.asked += 1
            name = classes.read_text("utf-8").splitlines()[self.asked].split(",")[0]
            return self.told(_FRESH, self.bundle, self.result, name, cache=self.folder / "cache")
        if what == "photo":
            vocabulary = self.folder / "classes.safetensors"
            if not vocabulary.exists():
                line = ("--classes", "sky; grass; cat", "--output", vocabulary)
                run(self.tree, "-m", "scclip_rt.cli", "embed", self.bundle, *line)
            return run(self.tree, "-c", _PHOTO, self.bundle, photo(self.work), self.result, vocabulary)[:2]
        if what == "write":
            return self.told(_WRITE, photo(self.work), self.folder / "out")
        scene = HERE / "scclip_rt/demo/scene.png"
        line = ("segment", "demo", scene, "--output", self.folder / "out", "--force")
        return run(self.tree, "-m", "scclip_rt.cli", *line)[:2]

    def outcome(self, what: str) -> Any:
        """What the gate compares."""
        if what in ("export", "narrow"):
            return operators(self.bundle)
        if what == "command":
            return np.asarray(Image.open(self.folder / "out/scene.labels.png"))
        if what == "write":
            return np.asarray(Image.open(self.folder / "out/photo.labels.png"))
        return np.load(self.result)


def check(what: str, ours: Any, theirs: Any) -> None:
    """The gate: nothing is told about time unless both sides made the same."""
    if what in ("names", "name", "fresh"):
        same = np.abs(ours - theirs).max() <= 1e-6
    elif what in ("photo", "command", "write"):
        same = np.array_equal(ours, theirs)
    else:
        same = ours == theirs
    if not same:
        sys.exit(f"error: {what}: the two checkouts made different things; nothing is told about time")


def main() -> None:
    """Measure in turn and print the ratios."""
    options = parser(__doc__)
    options.add_argument("other", type=lambda path: Path(path).resolve())
    options.add_argument("--what", nargs="+", choices=RUNS, default=RUNS)
    options.add_argument("--pairs", type=int, default=3, help="(%(default)s)")
    options.add_argument("--names", type=int, default=150, help="of ADE20K's (%(default)s)")
    options.add_argument("--model", default="vitb16", help="(%(default)s)")
    options.add_argument("--work", type=Path, default=work_folder(), help="keeps weights (%(default)s)")
    args = options.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        sides = [
            Side(tree, args.model, args.work, Path(folder) / name, names=args.names)
            for tree, name in ((HERE, "here"), (args.other, "other"))
        ]
        for side in sides if {"names", "name", "fresh", "photo"} & set(args.what) else ():
            export(side.tree, args.model, args.work, side.bundle, ())
        for what in (name for name in RUNS if name in args.what):  # exports last: they replace the bundle
            first = [side.measure(what) for side in sides]  # hashes and files of both are read by then
            check(what, *(side.outcome(what) for side in sides))
            exports = what in ("export", "narrow")
            pairs = [first] if exports else []
            pairs += [[side.measure(what) for side in sides] for _ in range(args.pairs - exports)]
            clock, used = (
                ratios([ours[k] for ours, _ in pairs], [theirs[k] for _, theirs in pairs]) for k in (0, 1)
            )
            here, there = (statistics.median(pair[side][1] for pair in pairs) for side in (0, 1))
            print(
                f"{what}: processor {here:.2f} s here, {there:.2f} s there; {spread(used)}; clock {spread(clock)}"
            )
            rows.append({"what": what, "here_there": pairs, "processor": used, "clock": clock})
    question = "Export, class names and first photos beside another checkout: seconds by the clock and of the processor"
    write_report(args.json, question, model=args.model, names=args.names, rows=rows)


if __name__ == "__main__":
    main()
