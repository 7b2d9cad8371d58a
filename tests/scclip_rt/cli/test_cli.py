"""The `scclip` command: outputs, messages, exit codes."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from png_file import GREY, png_file
from scclip_rt import Segmenter, cli
from scclip_rt.cli import build_parser
from scclip_rt.cli.inputs import find_images, output_names
from tiny_bundle import add_attention, blocks_image, edit_manifest, encoder_model, relist

CLASSES = "cat; dog, puppy; sky"
ENCODER = "encoder.fp32.onnx"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three images in a folder, one of them deeper, and what must be passed over."""
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    (folder / ".hidden").mkdir()
    for i, name in enumerate(("a.png", "b.jpg", "sub/c.png", ".hidden/x.png", "old.labels.png")):
        Image.fromarray(blocks_image(80 + i, 120, seed=i)).save(folder / name)
    (folder / "notes.txt").write_text("not an image")
    return folder


@pytest.fixture
def photo(photos: Path) -> Path:
    return photos / "a.png"


def scclip(*arguments: object) -> int:
    return cli.run([str(argument) for argument in arguments])


def segment(bundle: Path, *images: object, output: Path, options: tuple[object, ...] = ()) -> int:
    return scclip(
        "segment", bundle, *images, "--classes", CLASSES, "--templates", "none", "--output", output, *options
    )


def one_line_error(capsys: pytest.CaptureFixture[str]) -> str:
    """The last line on standard error, which must be the only one that is not a progress bar."""
    captured = capsys.readouterr()
    lines = [line for line in captured.err.split("\n") if line and "\r" not in line]
    assert len(lines) == 1, captured.err
    assert lines[0].startswith("scclip: error: ")
    assert "Traceback" not in captured.err
    return lines[0]


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*")) if folder.exists() else []


def test_one_image(
    bundle_path: Path, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert segment(bundle_path, photo, output=out) == 0
    assert files(out) == ["a.labels.png", "a.overlay.png"]
    labels = np.asarray(Image.open(out / "a.labels.png"))
    expected = Segmenter(bundle_path, classes=CLASSES, templates="none")(photo).labels
    np.testing.assert_array_equal(labels, expected)
    printed = capsys.readouterr().out
    assert str(out / "a.labels.png") in printed
    assert " %  " in printed
    assert re.fullmatch(
        r"Segmented 1 image into .*out in [0-9.]+ s, in fp32 by onnxruntime 1\.\S+ on the CPU with \d+ threads?\.",
        printed.splitlines()[-1],
    )


def test_without_overlays_labels_and_confidence_stay(bundle_path: Path, photo: Path, tmp_path: Path) -> None:
    for options, kinds in (((), ("labels",)), (("--confidence",), ("confidence", "labels"))):
        out = tmp_path / str(len(kinds))
        assert segment(bundle_path, photo, output=out, options=("--no-overlay", *options)) == 0
        assert files(out) == [f"a.{kind}.png" for kind in kinds]


@pytest.mark.parametrize("mode", ["latency", "throughput"])
def test_modes_give_the_same_labels(
    bundle_path: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    streamed: list[int] = []
    real = Segmenter.outcomes
    monkeypatch.setattr(
        Segmenter,
        "outcomes",
        lambda self, images, **options: (streamed.append(1), real(self, images, **options))[1],
    )
    out = tmp_path / mode
    assert segment(bundle_path, photos, output=out, options=("--mode", mode)) == 0
    assert bool(streamed) is (mode == "throughput")
    expected = Segmenter(bundle_path, classes=CLASSES, templates="none")
    for name in ("a.png", "b.jpg"):
        labels = np.asarray(Image.open(out / f"{Path(name).stem}.labels.png"))
        np.testing.assert_array_equal(labels, expected(photos / name).labels)


def test_folder_with_report_confidence_and_progress(
    bundle_path: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    options = ("--confidence", "--json", "--prob-threshold", "0.4", "--refine", "pamr", "--batch", 2)
    assert segment(bundle_path, photos, output=out, options=options) == 0
    stems = ("a", "b", "sub/c")
    kinds = ("confidence", "labels", "overlay")
    assert files(out) == sorted(["sub", *(f"{stem}.{kind}.png" for stem in stems for kind in kinds)])
    captured = capsys.readouterr()
    report = json.loads(captured.out)
    assert "segmenting" in captured.err
    assert report["backend"]["provider"] == "CPUExecutionProvider"
    assert report["options"] == {
        "logit_scale": 40.0,
        "prob_threshold": 0.4,
        "area_threshold": 0.0,
        "refine": "pamr",
        "maps": "cosine",
        "class_weighting": "none",
        "rest_class": None,
        "class_threshold": 0.0,
    }
    assert report["classes"] == ["cat", "dog", "sky"]
    assert [Path(row["input"]).name for row in report["images"]] == ["a.png", "b.jpg", "c.png"]
    for row in report["images"]:
        assert sum(row["shares"].values()) == pytest.approx(1, abs=1e-4)
        assert set(row["seconds"]) == {"prepare", "encode", "decode", "write"}
        assert Path(row["labels"]).is_file()
        assert np.asarray(Image.open(row["confidence"])).shape == (row["height"], row["width"])


def test_report_file(
    bundle_path: Path, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = tmp_path / "report.json"
    assert segment(bundle_path, photo, output=tmp_path / "out", options=(f"--json={report}",)) == 0
    assert json.loads(report.read_text())["schema"] == "scclip-segment/1"
    capsys.readouterr()
    assert segment(bundle_path, photo, output=tmp_path / "new", options=(f"--json={report}",)) == 2
    assert "report.json exists; pass --force" in one_line_error(capsys)
    assert files(tmp_path / "new") == []


def test_labels_of_many_classes_have_16_bits(bundle_path: Path, photo: Path, tmp_path: Path) -> None:
    (tmp_path / "many.txt").write_text("\n".join(f"thing {i}" for i in range(300)))
    options = ("--classes", tmp_path / "many.txt", "--templates", "none", "--output", tmp_path / "out")
    assert scclip("segment", bundle_path, photo, *options) == 0
    assert np.asarray(Image.open(tmp_path / "out" / "a.labels.png")).dtype == np.uint16


def test_whole_image(bundle_path: Path, photo: Path, tmp_path: Path) -> None:
    assert segment(bundle_path, photo, output=tmp_path / "out", options=("--whole-image", "--json")) == 0


def test_embed_then_segment(
    bundle_path: Path, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vocabulary = tmp_path / "v.safetensors"
    embed = ("embed", bundle_path, "--classes", "background; cat; dog, puppy", "--templates", "none")
    assert scclip(*embed, "--output", vocabulary) == 0
    assert "3 classes, 4 queries, background: background" in capsys.readouterr().out
    assert scclip(*embed, "--output", vocabulary) == 2
    assert "v.safetensors exists; pass --force to replace it" in one_line_error(capsys)
    assert scclip(*embed, "--output", vocabulary, "--force", "--json") == 0
    assert json.loads(capsys.readouterr().out)["queries"] == 4
    options = ("--vocabulary", vocabulary, "--output", tmp_path / "out", "--background", "none")
    assert scclip("segment", bundle_path, photo, *options, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["classes"] == ["background", "cat", "dog"]
    assert report["background"] is None


def test_inspect(bundle_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert scclip("inspect", bundle_path) == 0
    printed = capsys.readouterr().out
    for part in (
        "every SHA-256 matches",
        "windows: uint8 (batch, 96, 96, 3)",
        "agree with the manifest",
        "features = 1e-07",
        "auto: fp32 on onnxruntime (fp32 is the most accurate",
        "fast: ",
    ):
        assert part in printed
    assert scclip("inspect", bundle_path, "--json") == 0
    assert json.loads(capsys.readouterr().out)["manifest"]["name"] == "tiny"


def test_inspect_says_where_the_form_with_attention_runs(
    own_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert scclip("inspect", add_attention(own_bundle)) == 0
    printed = capsys.readouterr().out
    assert "(fp16, window 6×6, opset 20, runs on cuda)" in printed
    assert "(fp16, window 6×6, opset 23, runs on tensorrt and cuda from ONNX Runtime 1.31 on)" in printed


def truncate(root: Path) -> None:
    (root / ENCODER).write_bytes((root / ENCODER).read_bytes()[:-3])


def remove(root: Path) -> None:
    (root / "tokenizer.json").unlink()


def damage(root: Path) -> None:
    content = bytearray((root / ENCODER).read_bytes())
    content[-1] ^= 255
    (root / ENCODER).write_bytes(content)


def version(root: Path) -> None:
    edit_manifest(root, lambda document: document.update(format_version=7))


def shapes(root: Path) -> None:
    (root / ENCODER).write_bytes(encoder_model(8, 12).SerializeToString())
    relist(root)


def leave(root: Path) -> None:
    edit_manifest(root, lambda document: document.update(tokenizer="../tokenizer.json"))


def absolute(root: Path) -> None:
    edit_manifest(root, lambda document: document.update(tokenizer="/etc/passwd"))


def link(root: Path) -> None:
    (root.parent / "other.json").write_bytes((root / "tokenizer.json").read_bytes()[::-1])
    (root / "tokenizer.json").unlink()
    (root / "tokenizer.json").symlink_to(root.parent / "other.json")


def not_json(root: Path) -> None:
    (root / "bundle.json").write_text("{")


@pytest.mark.parametrize("command", ["segment", "inspect"])
@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (truncate, "truncated or changed"),
        (remove, "tokenizer.json is missing"),
        (damage, "SHA-256 is"),
        (version, "format version 7; this runtime reads 1"),
        (shapes, "'windows' is uint8 (batch, 128, 192, 3) in the graph; bundle.json says"),
        (leave, "'../tokenizer.json' leaves the bundle"),
        (absolute, "'/etc/passwd' leaves the bundle"),
        (link, "SHA-256 is"),
        (not_json, "is not JSON"),
    ],
)
def test_bad_bundle(
    own_bundle: Path,
    photo: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    command: str,
    break_it: Any,
    message: str,
) -> None:
    break_it(own_bundle)
    out = tmp_path / "out"
    code = segment(own_bundle, photo, output=out) if command == "segment" else scclip("inspect", own_bundle)
    assert code == 2
    assert message in one_line_error(capsys)
    assert files(out) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file or folder"),
        (b"", "the file is empty"),
        (b"GIF89a not really", "bad.png"),
        (b"\x89PNG\r\n\x1a\n" + bytes(20), "bad.png"),
    ],
)
def test_bad_image(
    bundle_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes | None, message: str
) -> None:
    if content is not None:
        (tmp_path / "bad.png").write_bytes(content)
    assert segment(bundle_path, tmp_path / "bad.png", output=tmp_path / "out") == 2
    assert message in one_line_error(capsys)
    assert files(tmp_path / "out") == []


def test_truncated_jpeg(
    bundle_path: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = photos / "b.jpg"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert segment(bundle_path, path, output=tmp_path / "out") == 2
    assert "b.jpg" in one_line_error(capsys)


def test_one_pixel_works(bundle_path: Path, tmp_path: Path) -> None:
    Image.new("RGB", (1, 1), "red").save(tmp_path / "dot.png")
    assert segment(bundle_path, tmp_path / "dot.png", output=tmp_path / "out") == 0
    assert np.asarray(Image.open(tmp_path / "out" / "dot.labels.png")).shape == (1, 1)


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ((20_000, 20_000), "400.0 million pixels; the limit is 128.0 million"),
        ((20_000, 1), "windows at 1920000×96"),
    ],
)
def test_enormous_images_are_refused_cheaply(
    bundle_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], size: tuple[int, int], message: str
) -> None:
    width, height = size
    rows = bytes(height * (1 + -(-width // 8)))
    data = png_file(width, height, bits=1, colour=GREY, rows=rows)  # Pillow would take a byte for each pixel
    (tmp_path / "huge.png").write_bytes(data)
    tracemalloc.start()
    assert segment(bundle_path, tmp_path / "huge.png", output=tmp_path / "out") == 2
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100e6  # bytes; the pixels alone, or the enlarged image, would take more
    assert message in one_line_error(capsys)


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ("", "no classes"),
        ("# nothing\n\n", "no classes in the class list"),
        ("cat\ndog\ncat\n", "'cat' is in two classes: line 1"),
        ("cat, puppy\ndog, puppy\n", "'puppy' is in two classes"),
        ("cat\n, ,\n", "has an empty name"),
        ("x" * 5000, "too long"),
    ],
)
def test_bad_class_file(
    bundle_path: Path,
    photo: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    classes: str,
    message: str,
) -> None:
    path = tmp_path / "classes.txt"
    path.write_text(classes)
    options = ("--classes", path, "--output", tmp_path / "out")
    assert scclip("segment", bundle_path, photo, *options) == 2
    assert message in one_line_error(capsys)
    assert files(tmp_path / "out") == []


@pytest.mark.parametrize("existing", ["a.labels.png", "b.overlay.png"])
def test_existing_output_stops_before_any_work(
    bundle_path: Path,
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    existing: str,
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / existing).write_text("mine")
    with monkeypatch.context() as patch:
        patch.setattr(cli.segment, "_segmenter", lambda _: pytest.fail("work was done"))
        assert segment(bundle_path, photos, output=out) == 2
    assert f"{existing} exists; pass --force to replace it" in one_line_error(capsys)
    assert files(out) == [existing]
    assert segment(bundle_path, photos, output=out, options=("--force",)) == 0
    assert len(files(out)) == 7
    assert (out / existing).read_bytes()[:4] == b"\x89PNG"


def test_one_bad_file_does_not_end_a_run(
    bundle_path: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "b.jpg").write_bytes(b"")
    out = tmp_path / "out"
    assert segment(bundle_path, photos, output=out, options=("--json",)) == 2
    captured = capsys.readouterr()
    rows = json.loads(captured.out)["images"]
    assert ["error" in row for row in rows] == [False, True, False]
    assert "b.jpg: the file is empty [ImageError]" in captured.err
    assert json.loads(captured.out)["failed"] == [str(photos / "b.jpg")]
    assert len(files(out)) == 5
    assert segment(bundle_path, photos, output=tmp_path / "stop", options=("--fail-fast",)) == 2
    assert files(tmp_path / "stop") == ["a.labels.png", "a.overlay.png"]


def test_same_stems_never_overwrite_each_other(bundle_path: Path, tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("x/photo.png", "x/photo.jpg", "y/photo.png", "y/other.png")]
    for i, path in enumerate(paths):
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(blocks_image(60, 60 + i)).save(path)
    out = tmp_path / "out"
    assert segment(bundle_path, *paths, output=out) == 0
    widths = {name: Image.open(out / name).width for name in files(out) if name.endswith("labels.png")}
    assert widths == {
        "x/photo.png.labels.png": 60,
        "photo.jpg.labels.png": 61,
        "y/photo.png.labels.png": 62,
        "other.labels.png": 63,
    }


def names_of(*arguments: Path) -> list[str]:
    return output_names(find_images(arguments))


def test_names_below_one_folder_tell_the_folder(tmp_path: Path) -> None:
    for name in ("a/p.png", "b/p.png", "b/q.png", "p.jpg", "a_p.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert find_images([tmp_path, tmp_path / "p.jpg"]) == find_images([tmp_path])
    names = dict(zip([str(i.relative) for i in find_images([tmp_path])], names_of(tmp_path), strict=True))
    assert names == {
        "a/p.png": "a/p",
        "b/p.png": "b/p",
        "b/q.png": "b/q",
        "p.jpg": "p",
        "a_p.png": "a_p",
    }


def test_folder_without_images(bundle_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    assert segment(bundle_path, tmp_path / "empty", output=tmp_path / "out") == 2
    assert "no images in this folder (looked for .apng" in one_line_error(capsys)


def test_output_that_is_a_file(
    bundle_path: Path, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").write_text("")
    assert segment(bundle_path, photo, output=tmp_path / "out") == 2
    assert "out is a file; --output names a folder" in one_line_error(capsys)


def test_full_disk(
    bundle_path: Path,
    photo: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The labels fit, the overlay does not: neither is left."""

    def full(self: Path, data: bytes) -> int:
        with self.open("wb") as stream:
            stream.write(data[: len(data) // 2])
        with Image.open(io.BytesIO(data)) as image:
            if image.mode == "RGB":
                raise OSError(28, "No space left on device")
        return len(data)

    monkeypatch.setattr(Path, "write_bytes", full)
    assert segment(bundle_path, photo, output=tmp_path / "out") == 2
    assert "overlay.png: No space left on device; free some space" in one_line_error(capsys)
    assert files(tmp_path / "out") == []


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (MemoryError(), "out of memory; lower --batch"),
        (OSError(28, "No space left on device", "/x/y"), "/x/y: No space left on device; free some space"),
    ],
)
def test_system_errors_in_one_line(
    bundle_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    message: str,
) -> None:
    def fail(_: object) -> int:
        raise error

    monkeypatch.setattr(cli.inspect.Bundle, "open", fail)
    assert scclip("inspect", bundle_path) == 2
    assert message in one_line_error(capsys)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--short-side", "0"), "short_side must be a whole number"),
        (("--prob-threshold", "7"), "prob_threshold must be a number from 0 to 1"),
        (("--backend", "torch"), "unknown backend 'torch'"),
        (("--device", "cuda:0"), "no 'cuda' provider"),
        (("--precision", "fp16"), "'fp16' is refused on the CPU"),
        (("--background", "cta"), "no class is called 'cta'; did you mean 'cat'"),
        (("--templates", "nonsense"), "can't read templates"),
        (
            ("--threads", "many"),
            "threads must be a whole number from 1 to 1,024; got 'many' (see `scclip segment --help`)",
        ),
        (("--vocabulary", "v"), "not allowed with argument --classes"),
    ],
)
def test_bad_options(
    bundle_path: Path, photo: Path, tmp_path: Path, options: tuple[str, ...], message: str
) -> None:
    """In a process of its own: argparse exits by itself."""
    command = ["segment", bundle_path, photo, "--classes", CLASSES, "--output", tmp_path / "out", *options]
    done = run_process(*command)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.startswith("scclip: error: ")
    assert done.stderr.count("\n") == 1
    assert files(tmp_path / "out") == []


def run_process(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "scclip_rt.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)


@pytest.mark.parametrize("command", [(), ("segment",), ("embed",), ("inspect",)])
def test_help_is_worth_reading(command: tuple[str, ...]) -> None:
    done = run_process(*command, "--help")
    assert done.returncode == 0
    assert "examples:\n  scclip " in done.stdout
    assert max(len(line) for line in done.stdout.splitlines()) <= 100


@pytest.mark.parametrize("command", ["segment", "embed", "batch", "eval", "serve", "compare-methods"])
@pytest.mark.parametrize("option", ["--templates", "--text-precision"])
def test_how_names_are_embedded_is_said_in_the_same_words(command: str, option: str) -> None:
    known = "imagenet (80 of them)" if option == "--templates" else "fp32, or int8 where the bundle"
    subparsers = build_parser([command])._subparsers
    assert subparsers is not None
    parser = subparsers._group_actions[0].choices[command]
    (action,) = [action for action in parser._actions if option in action.option_strings]
    assert known in str(action.help)
    assert action.default is None


def test_a_command_imports_no_other() -> None:
    code = (
        "import sys; from scclip_rt.cli import COMMANDS, build_parser; build_parser(['embed', 'demo']); "
        "others = {f'scclip_rt.cli.{name}' for name in COMMANDS} - {'scclip_rt.cli.embed'}; "
        "assert not others & sys.modules.keys(); assert 'scclip_rt.cli.embed' in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr


def test_version() -> None:
    done = run_process("--version")
    assert done.stdout.startswith("scclip-rt 0.")


def test_no_command() -> None:
    done = run_process()
    assert done.returncode == 2
    assert done.stderr.startswith("scclip: error: ")


def test_closed_pipe_is_quiet(bundle_path: Path) -> None:
    command = f"{sys.executable} -m scclip_rt.cli inspect {bundle_path} --json | head -c 1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=600, check=False)
    assert (done.stdout, done.stderr) == ("{", "")


def test_interrupt_leaves_nothing_half_written(bundle_path: Path, tmp_path: Path) -> None:
    """A real process and a real signal, in the midst of a long folder."""
    folder, out = tmp_path / "photos", tmp_path / "out"
    folder.mkdir()
    first = folder / "0000.png"
    Image.fromarray(blocks_image(400, 600)).save(first)
    for i in range(1, 2000):
        os.link(first, folder / f"{i:04}.png")
    arguments = ["segment", bundle_path, folder, "--classes", CLASSES, "--templates", "none", "--output", out]
    command = [sys.executable, "-m", "scclip_rt.cli", *map(str, arguments)]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell that starts the tests in the background has it ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while len(files(out)) < 6 and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 130
    assert errors.rstrip().endswith("scclip: interrupted")
    assert "Traceback" not in errors
    written = files(out)
    assert not [name for name in written if name.startswith(".tmp")]
    stems = {name.split(".")[0] for name in written}
    assert sorted(written) == sorted(f"{stem}.{kind}.png" for stem in stems for kind in ("labels", "overlay"))
    assert 0 < len(stems) < 2000
    for name in written:
        Image.open(out / name).load()
