"""What strangers' files and ordinary surroundings can do: one precise error, or the right result; never a surprise."""

import copy
import hashlib
import io
import json
import multiprocessing
import os
import pickle
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from scclip_rt import Segmenter, cli
from scclip_rt.backends.host_encoder import BatchedEncoder, Feeds
from scclip_rt.backends.onnxruntime.encoder import OnnxRuntimeEncoder
from scclip_rt.bundle.bundle import Bundle
from scclip_rt.bundle.engine_sidecar import UnreadableEngine, read_engines
from scclip_rt.bundle.onnx_weights import external_locations
from scclip_rt.errors import BackendError, BundleError, ImageError, OptionError, VocabularyError, printable
from scclip_rt.image.files import images_below
from scclip_rt.image.load import load_image
from scclip_rt.image.memory import EncoderCost, check_memory, free_memory
from scclip_rt.strict_json import parse_json
from scclip_rt.vocabulary.classes import parse_classes
from scclip_rt.vocabulary.templates import load_templates
from scclip_rt.vocabulary.tokenizer import Tokenizer
from tiny_bundle import blocks_image, edit_manifest, encoder_model

CLASSES = ["cat", "dog, puppy", "sky"]


@pytest.fixture
def segment(bundle_path: Path) -> Segmenter:
    return Segmenter(bundle_path, classes=CLASSES, templates="none")


def scclip(*arguments: object) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "scclip_rt", *(a if isinstance(a, bytes) else str(a) for a in arguments)]
    return subprocess.run(command, capture_output=True, timeout=300, check=False)


# A string is never a file


def test_a_string_of_classes_is_never_read_as_a_file(segment: Segmenter, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("password\n")
    found = segment.with_classes(f"{secret.relative_to(tmp_path.parent)}").vocabulary
    assert "password" not in found.queries
    for text in (str(secret), "list.txt", "./x", "/etc/passwd"):
        with pytest.raises(VocabularyError, match="look like a file") as caught:
            segment.set_classes(text)
        assert "password" not in str(caught.value)
    with pytest.raises(VocabularyError, match="unknown templates"):
        load_templates(str(secret))


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("c.csv", '"dog, puppy"\n"traffic light"\n', (("dog", "puppy"), ("traffic light",))),
        ("c.csv", "dog,puppy\ncat\n", (("dog", "puppy"), ("cat",))),
        ("c.txt", "dog; puppy\ncat\n", (("dog",), ("puppy",), ("cat",))),
        ("c.txt", "dog\u2028puppy\ncat\x85kitten\n", (("dog\u2028puppy",), ("cat\x85kitten",))),
        ("c.txt", "caf&eacute;\ntea\r\n", (("café",), ("tea",))),
    ],
)
def test_class_lists_mean_what_they_say(
    tmp_path: Path, name: str, text: str, expected: tuple[tuple[str, ...], ...]
) -> None:
    (tmp_path / name).write_bytes(text.encode())
    assert parse_classes(tmp_path / name) == expected


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("c.txt", "café\ncafe\u0301\n", "in two classes"),
        ("c.txt", "caf&eacute;\ncafé\n", "in two classes"),
        ("c.csv", '"dog\n', "not CSV"),
        ("c.csv", "0,dog\n1,cat\n", "first column holds numbers"),
    ],
)
def test_class_lists_that_would_mean_something_else_are_refused(
    tmp_path: Path, name: str, text: str, message: str
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(VocabularyError, match=message):
        parse_classes(tmp_path / name)


def test_templates_beside_a_ready_vocabulary_are_refused(segment: Segmenter, bundle_path: Path) -> None:
    with pytest.raises(OptionError, match="templates go with classes"):
        Segmenter(bundle_path, vocabulary=segment.vocabulary, templates="none")


# Images


def test_formats_are_told_by_content_and_rare_readers_never_run(tmp_path: Path) -> None:
    postscript = tmp_path / "photo.png"
    postscript.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n")
    with pytest.raises(ImageError, match="not an image in a known format"):
        load_image(postscript)
    with Image.open(postscript) as opened, pytest.raises(ImageError, match="its format is EPS"):
        load_image(opened)
    with pytest.raises(ImageError, match="not an image in a known format"):
        load_image(postscript.read_bytes())
    icon = io.BytesIO()
    Image.new("RGB", (16, 16)).save(icon, "ICO")
    with pytest.raises(ImageError, match="not an image in a known format"):
        load_image(icon.getvalue())


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM"])
def test_bytes_and_file_objects_are_images(tmp_path: Path, kind: str) -> None:
    if kind == "AVIF":
        pytest.importorskip("PIL.AvifImagePlugin")
    path = tmp_path / "image.bin"
    Image.fromarray(blocks_image(20, 30)).save(path, kind)
    expected = load_image(path)
    with path.open("rb") as stream:
        np.testing.assert_array_equal(load_image(stream), expected)
    data = path.read_bytes()
    for source in (data, bytearray(data), memoryview(data), Pipe(data)):
        np.testing.assert_array_equal(load_image(source), expected)


class Pipe:
    """A stream that can't seek, as standard input."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def read(self, _: int = -1) -> bytes:
        return self._data


def test_a_file_object_of_text_is_refused() -> None:
    with pytest.raises(ImageError, match="binary mode"):
        load_image(io.StringIO("text"))  # type: ignore[arg-type]


def test_a_tile_larger_than_the_limit_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    path = tmp_path / "tiled.tif"
    tags = {256: 16, 257: 16, 258: 8, 259: 1, 262: 1, 277: 1, 322: 2**20, 323: 2**20, 324: 8, 325: 256}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    path.write_bytes(b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4 + 256))
    with pytest.raises(ImageError, match=r"a tile of the image is 1048576×1048576"):
        load_image(path)


def test_out_of_memory_is_not_a_damaged_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(blocks_image(20, 30)).save(tmp_path / "a.png")

    def full(self: Image.Image) -> None:
        raise OSError("decoder error -9: out of memory")

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", full)
    with pytest.raises(MemoryError, match=r"a\.png"):
        load_image(tmp_path / "a.png")


def test_folders_lose_nothing(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    root = tmp_path / "photos"
    (root / "deep").mkdir(parents=True)
    for name in ("a.jpg", "B.JPEG", "c.jfif", "d.avif", "e.jpe", "f.mpo", "deep/g.j2k", "../outside/h.webp"):
        (root / name).touch()
    for name in ("notes.txt", "i.tga", ".hidden.jpg", "._a.jpg", "Thumbs.db", ".DS_Store", "a.overlay.png"):
        (root / name).touch()
    (root / "linked").symlink_to(outside)
    (root / "loop").symlink_to(root)
    found = images_below(root)
    names = [path.relative_to(root).as_posix() for path in found.images]
    assert names == ["B.JPEG", "a.jpg", "c.jfif", "d.avif", "deep/g.j2k", "e.jpe", "f.mpo", "linked/h.webp"]
    skipped = {path.name: reason for path, reason in found.skipped}
    assert set(skipped) == {"notes.txt", "i.tga", "loop"}
    assert "searched already" in skipped["loop"]


def test_folders_may_be_deeper_than_the_stack(tmp_path: Path) -> None:
    previous = os.getcwd()  # noqa: PTH109
    try:
        os.chdir(tmp_path)
        for _ in range(1100):
            os.mkdir("d")  # noqa: PTH102
            os.chdir("d")
        Path("a.jpg").touch()
    finally:
        os.chdir(previous)
    try:
        assert len(images_below(tmp_path).images) == 1
    finally:
        subprocess.run(["rm", "-r", tmp_path / "d"], check=True)  # Python's own way is too deep for its stack


# Bundles


def test_a_tag_that_libraries_read_otherwise_is_refused(tmp_path: Path) -> None:
    """Protobuf drops what a tag has beyond 32 bits: field 13 to it, to a reader of 64 bits another one."""
    path = tmp_path / "m.onnx"
    good = encoder_model(6, 6, external="weights.data").SerializeToString()
    path.write_bytes(good)
    assert external_locations(path) == {"weights.data"}
    entry = b"\x0a\x08location\x12\x0cweights.data"
    at = good.index(b"\x6a" + bytes([len(entry)]) + entry)
    for tag in (b"\xea\x80\x80\x80\x10", b"\xea\x00"):
        path.write_bytes(_replaced(good, at, tag))
        with pytest.raises(BundleError, match=r"m\.onnx is no ONNX file"):
            external_locations(path)


def _replaced(model: bytes, at: int, tag: bytes) -> bytes:
    """The model with another tag at a place, as the whole of a message that holds nothing else of interest."""
    end = at + 2 + model[at + 1]
    tensor = tag + model[at + 1 : end]
    graph = b"\x2a" + bytes([len(tensor)]) + tensor
    return b"\x3a" + bytes([len(graph)]) + graph


@pytest.mark.parametrize(
    "text",
    [
        "[" * 1000 + "]" * 1000,
        "NaN",
        "-Infinity",
        "1e999",
        '"\\ud800"',
        '{"\\udfff": 1}',
        "",
        "{",
        "\x00",
        b"\xff\xfe",
    ],
)
def test_json_that_is_none_to_others_is_none_to_us(text: str | bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 (each has words of its own)
        parse_json(text)


@pytest.mark.parametrize(
    "content", ["[" * 100_000, '{"format_version": 1e999}', '{"format_version": 1}', "\x00", "[1]"]
)
def test_a_damaged_sidecar_keeps_nothing_else_from_working(own_bundle: Path, content: str) -> None:
    (own_bundle / "engines").mkdir()
    (own_bundle / "engines" / "one.json").write_text(content)
    listed = {"sha256": hashlib.sha256(content.encode()).hexdigest(), "bytes": len(content)}

    def add(document: dict[str, Any]) -> None:
        document["engines"] = ["engines/one.json"]
        document["files"]["engines/one.json"] = listed

    edit_manifest(own_bundle, add)
    (engine,) = read_engines(Bundle.open(own_bundle))
    assert isinstance(engine, UnreadableEngine)
    assert Segmenter(own_bundle, classes=CLASSES, templates="none")(blocks_image(60, 60)).labels.shape == (
        60,
        60,
    )


def test_a_tokenizer_that_panics_is_an_error_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    class PanicException(BaseException):
        pass

    def panic(_: str) -> None:
        raise PanicException("index out of bounds")

    monkeypatch.setattr("tokenizers.Tokenizer", type("T", (), {"from_str": staticmethod(panic)}))
    with pytest.raises(BundleError, match="index out of bounds"):
        Tokenizer.from_json("{}")


@pytest.mark.parametrize("change", ["windows", "patches"])
def test_an_encoder_that_gives_less_than_asked_is_refused(
    segment: Segmenter, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    real = OnnxRuntimeEncoder.infer

    def less(self: BatchedEncoder, names: Sequence[str], feeds: Feeds) -> list[Any]:
        outputs = real(self, names, feeds)
        return [output[:1] if change == "windows" else output[:, :-1] for output in outputs]

    monkeypatch.setattr(OnnxRuntimeEncoder, "infer", less)
    with pytest.raises(BackendError, match="came back as"):
        list(segment.stream([blocks_image(200, 300), blocks_image(200, 300)]))
    with pytest.raises(BackendError, match="came back as"):
        segment(blocks_image(200, 300))


def test_text_for_a_terminal_has_no_controls() -> None:
    assert printable("a\x1b[2Jb\r\n\u202ec\u2028") == r"a\x1b[2Jb\r\n\u202ec\u2028"
    assert printable("naïve café – 猫") == "naïve café – 猫"


# Memory


def test_an_image_that_would_take_too_much_memory_is_refused(bundle_path: Path) -> None:
    whole = Segmenter(bundle_path, classes=CLASSES, templates="none", whole_image=True, max_memory=1_000_000)
    with pytest.raises(
        ImageError, match=r"would take about .* or segment in windows, or raise the limit"
    ) as caught:
        whole(blocks_image(600, 600))
    assert caught.value.field == "max_memory"
    windows = Segmenter(bundle_path, classes=CLASSES, templates="none", max_memory=100_000)
    with pytest.raises(ImageError, match="max_memory"):
        windows(blocks_image(600, 600))


def test_the_estimate_is_what_was_measured() -> None:
    """A ViT-B/16, whole images: 7,788 patches took 4.8 GB, weights of 0.35 GB among them."""
    cost = EncoderCost(heads=12, width=768, batch=1)
    assert 4.2e9 < cost.workspace(1, 7788) < 6e9
    assert EncoderCost(heads=12, width=768, batch=8).workspace(6, 196) < 0.2e9


def test_free_memory_is_the_containers_where_that_is_less(tmp_path: Path) -> None:
    for name, text in (
        ("proc/meminfo", "MemTotal: 9000 kB\nMemAvailable: 8000 kB\n"),
        ("sys/fs/cgroup/memory.max", "3000000\n"),
        ("sys/fs/cgroup/memory.current", "1000000\n"),
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert free_memory(tmp_path) == 2_000_000
    (tmp_path / "sys/fs/cgroup/memory.max").write_text("max\n")
    assert free_memory(tmp_path) == 8_192_000
    check_memory(10**12, 10**12, "x", whole=False)


# Processes


def test_a_segmenter_survives_a_fork(segment: Segmenter) -> None:
    image = blocks_image(80, 120)
    expected = segment(image).labels
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(60)  # a hang ends here
        same = bool(np.array_equal(segment(image).labels, expected))
        os.write(write, b"1" if same else b"0")
        os._exit(0)
    os.close(write)
    assert os.read(read, 1) == b"1"
    assert os.waitpid(child, 0)[1] == 0
    np.testing.assert_array_equal(segment(image).labels, expected)


def test_a_forked_child_that_only_inherited_a_segmenter_ends_at_once(bundle_path: Path) -> None:
    code = f"""
import os, sys
from scclip_rt import Segmenter
segment = Segmenter({str(bundle_path)!r}, classes={CLASSES!r}, templates="none")
child = os.fork()
if child == 0:
    sys.exit(0)  # an ordinary end, with everything torn down
print(os.waitpid(child, 0)[1])
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "0\n", "")


def test_a_pickled_segmenter_opens_its_bundle_again(segment: Segmenter) -> None:
    image = blocks_image(80, 120)
    data = pickle.dumps(segment)
    assert len(data) < 50_000  # no weights
    again = pickle.loads(data)
    np.testing.assert_array_equal(again(image).labels, segment(image).labels)
    again.set_classes(["cat", "sky"])
    assert again.vocabulary.templates == "none"


def test_a_spawned_process_gets_a_segmenter(segment: Segmenter) -> None:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        labels = pool.apply(_labels, (segment,))
    np.testing.assert_array_equal(labels, segment(blocks_image(60, 60)).labels)


def _labels(segment: Segmenter) -> Any:
    return segment(blocks_image(60, 60)).labels


def test_a_result_is_one_line_and_carries_only_what_was_asked_for(segment: Segmenter) -> None:
    result = segment(blocks_image(300, 400))
    assert repr(result).startswith("<Segmentation 400×300: ")
    assert "\n" not in repr(result)
    assert len(repr(result)) < 300
    assert result._repr_png_().startswith(b"\x89PNG")
    assert len(pickle.dumps(result)) < result.labels.nbytes + 2000
    for other in (pickle.loads(pickle.dumps(result)), copy.copy(result), copy.deepcopy(result)):
        np.testing.assert_array_equal(other.labels, result.labels)
        assert other.image is None
        assert other.shares() == result.shares()


def test_label_files_are_coloured_and_hold_the_labels(segment: Segmenter, tmp_path: Path) -> None:
    result = segment(blocks_image(100, 120))
    (labels, _) = result.save(tmp_path, "x")
    with Image.open(labels) as image:
        assert image.mode == "P"
        np.testing.assert_array_equal(np.asarray(image), result.labels)
        assert np.asarray(image.convert("RGB")).max() > 100


# The command line in ordinary surroundings


@pytest.mark.parametrize("surrounding", ["closed", "ascii", "full"])
def test_names_and_outputs_of_any_kind(bundle_path: Path, tmp_path: Path, surrounding: str) -> None:
    photo = os.fsencode(tmp_path) + b"/caf\xe9.png"
    Image.fromarray(blocks_image(60, 80)).save(tmp_path / "x.png")
    (tmp_path / "x.png").rename(os.fsdecode(photo))
    line = [
        sys.executable,
        "-m",
        "scclip_rt",
        "segment",
        bundle_path,
        os.fsdecode(photo),
        "--classes",
        "cat; sky",
    ]
    line += ["--templates", "none", "--output", tmp_path / "out", f"--json={tmp_path / 'report.json'}"]
    words = " ".join(f"'{os.fsdecode(part)}'" if os.fsdecode(part) else "''" for part in map(str, line))
    tail = {"closed": ">&-", "ascii": "", "full": ">/dev/full"}[surrounding]
    environment = os.environ | {"PYTHONIOENCODING": "ascii:strict"}
    done = subprocess.run(
        os.fsencode(f"{words} {tail}"),
        shell=True,
        capture_output=True,
        timeout=300,
        check=False,
        env=environment,
    )
    assert b"Traceback" not in done.stderr
    assert done.returncode == (2 if surrounding == "full" else 0), done.stderr
    assert json.loads((tmp_path / "report.json").read_bytes())["images"][0]["height"] == 60


def test_a_report_is_never_lost(
    bundle_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.fromarray(blocks_image(60, 80)).save(tmp_path / "x.png")
    (tmp_path / "file").write_text("")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    options = ["--templates", "none", "--classes", "cat; sky", "-o", str(tmp_path / "out")]
    target = tmp_path / "file" / "report.json"  # a folder that can't be made
    assert cli.run(["segment", str(bundle_path), str(tmp_path / "x.png"), *options, f"--json={target}"]) == 2
    place = capsys.readouterr().err.rpartition("the report is in ")[2].split(" ")[0]
    assert json.loads(Path(place).read_text())["images"][0]["input"].endswith("x.png")


def test_a_run_goes_on_where_it_stopped(
    bundle_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = tmp_path / "photos", tmp_path / "out"
    (folder / "sub").mkdir(parents=True)
    for i, name in enumerate(("a.png", "b.png", "sub/c.png")):
        Image.fromarray(blocks_image(60, 80, seed=i)).save(folder / name)
    line = [
        "segment",
        str(bundle_path),
        str(folder),
        "--templates",
        "none",
        "--classes",
        "cat; sky",
        "-o",
        str(out),
    ]
    assert cli.run(line) == 0
    (out / "b.overlay.png").unlink()
    before = (out / "a.labels.png").stat().st_mtime_ns
    assert cli.run([*line, "--skip-existing"]) == 0
    assert "2 were there already" in capsys.readouterr().out
    assert (out / "b.overlay.png").is_file()
    assert (out / "a.labels.png").stat().st_mtime_ns == before


def test_a_name_too_long_for_its_outputs_is_cut(bundle_path: Path, tmp_path: Path) -> None:
    photo = tmp_path / f"{'é' * 120}.png"
    Image.fromarray(blocks_image(60, 80)).save(photo)
    options = ["--templates", "none", "--classes", "cat; sky", "-o", str(tmp_path / "out")]
    assert cli.run(["segment", str(bundle_path), str(photo), *options]) == 0
    assert len(list((tmp_path / "out").iterdir())) == 2


def test_standard_input_is_an_image(bundle_path: Path, tmp_path: Path) -> None:
    data = io.BytesIO()
    Image.fromarray(blocks_image(60, 80)).save(data, "PNG")
    line = [sys.executable, "-m", "scclip_rt", "segment", str(bundle_path), "-", "--classes", "cat; sky"]
    line += ["--templates", "none", "-o", str(tmp_path)]
    done = subprocess.run(line, input=data.getvalue(), capture_output=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "stdin.labels.png").is_file()


def test_a_package_that_can_not_be_loaded_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    from scclip_rt.cli.guard import guard

    def broken() -> int:
        raise ImportError("libGL.so.1: cannot open shared object file", name="cv2")

    assert guard("scclip", broken) == 2


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["segment", "demo", "x.png", "-o", "y", "--precison", "fp32"], "did you mean '--precision'"),
        (["inspect", "demoo"], "did you mean 'demo'"),
        (["segment", "demo", "x", "-o", "y", "--logit-scale", "1e39"], "logit_scale must be a number from"),
        (["segment", "demo", "x", "-o", "y", "--threads", "2147483648"], "threads must be a whole number"),
        (["bench", "demo", "--image-size", "60000x60000"], "million"),
    ],
)
def test_misspelt_and_impossible_options(
    words: list[str], hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = cli.run(words)
    except SystemExit as stop:
        code = int(stop.code or 0)
    assert code == 2
    assert hint in capsys.readouterr().err


def test_sigterm_leaves_nothing_temporary(bundle_path: Path, tmp_path: Path) -> None:
    folder, out = tmp_path / "photos", tmp_path / "out"
    folder.mkdir()
    Image.fromarray(blocks_image(400, 600)).save(folder / "0.png")
    for i in range(1, 1000):
        os.link(folder / "0.png", folder / f"{i}.png")
    line = [
        sys.executable,
        "-m",
        "scclip_rt",
        "segment",
        str(bundle_path),
        str(folder),
        "--classes",
        "cat; sky",
    ]
    process = subprocess.Popen(
        [*line, "--templates", "none", "-o", str(out)], stderr=subprocess.PIPE, text=True
    )
    while process.poll() is None and (not out.exists() or len(list(out.iterdir())) < 6):
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 143
    assert errors.rstrip().endswith("scclip: terminated")
    assert not [path.name for path in out.iterdir() if path.name.startswith(".tmp")]
