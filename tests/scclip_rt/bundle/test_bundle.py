"""Every rule of reading of docs/bundle.md, each broken once."""

import copy
import json
import os
import shutil
from pathlib import Path
from typing import Any

import onnx
import pytest

from scclip_rt.bundle import hashes
from scclip_rt.bundle.bundle import Bundle
from scclip_rt.bundle.onnx_weights import external_locations
from scclip_rt.errors import BackendError, BundleError
from scclip_rt.files import cache_directory
from tiny_bundle import build_bundle, edit_manifest, encoder_model, relist

ENCODER, DATA = "encoder.fp32.onnx", "encoder.fp32.onnx.data"


def refuse(path: Path | str, message: str) -> None:
    """Opening must fail with one line that names the bundle."""
    with pytest.raises(BundleError, match=message) as caught:
        Bundle.open(path)
    assert "\n" not in str(caught.value)


def test_sound_bundle_opens_with_typed_views(bundle_path: Path) -> None:
    bundle = Bundle.open(bundle_path)
    assert bundle.name == "tiny"
    assert bundle.model.embed_dim == 8
    assert bundle.preprocessing.short_side == 128
    assert bundle.decoding.area_threshold is None
    assert [str(encoder.grid) for encoder in bundle.encoders] == ["window 6×6", "dynamic", "fixed 8×12"]
    assert bundle.text_encoder.context_length == 77
    assert bundle.checked_path(bundle.manifest.tokenizer).name == "tokenizer.json"
    assert Bundle.open(bundle) is bundle
    assert set(bundle.verify_all()) == set(bundle.manifest.files)


def test_member_that_a_newer_exporter_added_is_ignored(own_bundle: Path) -> None:
    def add(document: dict[str, Any]) -> None:
        document["model"]["colour_of_the_box"] = "blue"
        document["decoding"]["soft"] = True
        document["new"] = {}

    edit_manifest(own_bundle, add)
    Bundle.open(own_bundle)


@pytest.mark.parametrize("kind", ["missing", "file", "empty directory"])
def test_path_that_is_no_bundle(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x.scclip"
    if kind == "missing":
        refuse(path, "no such bundle; make one with `scclip-export")
    elif kind == "file":
        path.write_text("")
        refuse(path, "is a file; a bundle is a directory")
    else:
        path.mkdir()
        refuse(path, r"no bundle\.json in it")


def test_demo_without_a_packaged_bundle_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("scclip_rt.bundle.bundle._PACKAGE", tmp_path)
    refuse("demo", "ships no demo bundle")
    build_bundle(tmp_path / "demo.scclip")
    assert Bundle.open("demo").name == "tiny"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not JSON"),
        ('{"format_version": 1', "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "the document: .* is not of type 'object'"),
        ("{}", "'format_version' is a required property"),
        ('{"format_version": 3}', "format version 3; this runtime reads 1, 2"),
        ('{"format_version": true}', "format version True; this runtime reads 1, 2"),
        ('{"format_version": "1"}', "format version '1'"),
    ],
)
def test_manifest_that_is_not_one(own_bundle: Path, text: str, message: str) -> None:
    (own_bundle / "bundle.json").write_text(text)
    refuse(own_bundle, message)


def test_manifest_of_other_bytes(own_bundle: Path) -> None:
    (own_bundle / "bundle.json").write_bytes(b"\xff\xfe\x00")
    refuse(own_bundle, "not JSON")


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("preprocessing", "window"), 0, r"preprocessing\.window: 0 is less than"),
        (("encoders", 0, "precision"), "fp64", r"encoders\[0\]\.precision: 'fp64' is not one of"),
        (("encoders",), [], "encoders: "),
        (("model", "checkpoint_sha256"), "abc", r"model\.checkpoint_sha256"),
        (("decoding", "prob_threshold"), 2, r"decoding\.prob_threshold"),
    ],
)
def test_value_the_schema_refuses_is_named_by_its_place(
    own_bundle: Path, place: tuple[str | int, ...], value: object, message: str
) -> None:
    def edit(document: Any) -> None:
        for key in place[:-1]:
            document = document[key]
        document[place[-1]] = value

    edit_manifest(own_bundle, edit)
    refuse(own_bundle, message)


@pytest.mark.parametrize(
    ("index", "edit", "message"),
    [
        ("inputs", {"name": "pixels"}, "lists inputs pixels, text; 'windows' is missing"),
        ("inputs", {"dtype": "float32"}, "'windows' is float32 in bundle.json; must be uint8"),
        (
            "inputs",
            {"shape": ["batch", 224, 224, 3]},
            r"windows: uint8 \(batch, 224, 224, 3\); .* \(\*, 96, 96, 3\)",
        ),
        ("outputs", {"shape": ["batch", 36, 512]}, r"features: float32 \(batch, 36, 512\)"),
    ],
)
def test_tensors_that_disagree_with_the_model(
    own_bundle: Path, index: str, edit: dict[str, Any], message: str
) -> None:
    edit_manifest(own_bundle, lambda document: document["encoders"][0][index][0].update(edit))
    refuse(own_bundle, message)


def test_window_that_the_grid_does_not_fill(own_bundle: Path) -> None:
    edit_manifest(own_bundle, lambda document: document["preprocessing"].update(window=112))
    refuse(own_bundle, "6×6 patches of 16 pixels is not the window of 112 pixels")


def test_missing_file(own_bundle: Path) -> None:
    (own_bundle / DATA).unlink()
    refuse(own_bundle, rf"{DATA} is missing; copy or export the bundle again")


def test_truncated_file(own_bundle: Path) -> None:
    (own_bundle / ENCODER).write_bytes((own_bundle / ENCODER).read_bytes()[:-7])
    refuse(own_bundle, rf"{ENCODER} has [\d,]+ bytes, bundle.json says [\d,]+: truncated or changed")


def test_file_that_is_used_but_not_listed(own_bundle: Path) -> None:
    edit_manifest(own_bundle, lambda document: document["files"].pop(ENCODER))
    refuse(own_bundle, f"names '{ENCODER}' but does not list it")


@pytest.mark.parametrize(
    "name", ["../outside.onnx", "/etc/passwd", "sub/../../outside.onnx", "..\\outside", "a\0b"]
)
@pytest.mark.parametrize("listed", [True, False])
def test_path_that_leaves_the_bundle(own_bundle: Path, name: str, listed: bool) -> None:
    (own_bundle.parent / "outside.onnx").write_bytes(b"outside")

    def edit(document: dict[str, Any]) -> None:
        document["encoders"][0]["file"] = name
        if listed:
            document["files"][name] = {"sha256": "0" * 64, "bytes": 7}

    edit_manifest(own_bundle, edit)
    refuse(own_bundle, "leaves the bundle; refused")


def test_links_to_blobs_are_as_good_as_files(own_bundle: Path) -> None:
    """As in a Hugging Face cache: every file a link to one named by its hash; what it leads to is held to the hash."""
    blobs = own_bundle.parent / "blobs"
    blobs.mkdir()
    for number, path in enumerate(sorted(path for path in own_bundle.rglob("*") if path.is_file())):
        shutil.move(path, blobs / str(number))
        path.symlink_to(blobs / str(number))
    bundle = Bundle.open(own_bundle)
    bundle.verify_all()
    blob = bundle.checked_graph(ENCODER).resolve()
    content = bytearray(blob.read_bytes())
    content[-1] ^= 1
    blob.write_bytes(content)
    with pytest.raises(BundleError, match="SHA-256 is"):
        Bundle.open(own_bundle).checked_graph(ENCODER)


@pytest.mark.parametrize("name", ["bundle.json", ENCODER, DATA])
def test_special_files_are_refused_without_opening_them(own_bundle: Path, name: str) -> None:
    (own_bundle / name).unlink()
    os.mkfifo(own_bundle / name)  # opening it would block for ever
    refuse(own_bundle, "not a regular file|is no regular file")


def test_a_damaged_memory_of_hashes_does_not_condemn_a_sound_file(own_bundle: Path) -> None:
    Bundle.open(own_bundle).checked_path(ENCODER)
    memory = cache_directory() / "hashes.json"
    entries = json.loads(memory.read_text())
    entries[str((own_bundle / ENCODER).resolve())]["sha256"] = "0" * 64
    memory.write_text(json.dumps(entries))
    Bundle.open(own_bundle).checked_path(ENCODER)


def test_loop_of_links(own_bundle: Path) -> None:
    (own_bundle / ENCODER).unlink()
    (own_bundle / ENCODER).symlink_to(ENCODER)
    refuse(own_bundle, "can't be followed|is missing|symbolic links")


def test_symbolic_links_inside_and_to_the_bundle_are_fine(own_bundle: Path, tmp_path: Path) -> None:
    shutil.move(own_bundle / DATA, own_bundle / "weights")
    (own_bundle / DATA).symlink_to("weights")
    (tmp_path / "link.scclip").symlink_to(own_bundle)
    Bundle.open(tmp_path / "link.scclip").verify_all()


@pytest.mark.parametrize("name", [ENCODER, DATA, "tokenizer.json"])
def test_changed_file_fails_its_hash(own_bundle: Path, name: str) -> None:
    content = bytearray((own_bundle / name).read_bytes())
    content[len(content) // 2] ^= 1
    (own_bundle / name).write_bytes(content)
    bundle = Bundle.open(own_bundle)
    with pytest.raises(BundleError, match=rf"{name}: SHA-256 is \w+…, bundle.json says \w+…"):
        bundle.checked_graph(name) if name == ENCODER else bundle.checked_path(name)
    with pytest.raises(BundleError, match=name):
        bundle.verify_all()


def test_changed_weights_are_found_through_the_graph(own_bundle: Path) -> None:
    (own_bundle / DATA).write_bytes(bytes((own_bundle / DATA).stat().st_size))
    with pytest.raises(BundleError, match=f"{DATA}: SHA-256"):
        Bundle.open(own_bundle).checked_graph(ENCODER)


def test_file_is_hashed_once_until_it_changes(own_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[str] = []
    real = hashes.sha256_file
    monkeypatch.setattr(hashes, "sha256_file", lambda path: (reads.append(path.name), real(path))[1])
    for _ in range(3):
        Bundle.open(own_bundle).checked_graph(ENCODER)
    assert reads == [ENCODER, DATA]
    status = (own_bundle / ENCODER).stat()
    os.utime(own_bundle / ENCODER, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    Bundle.open(own_bundle).checked_graph(ENCODER)
    assert reads == [ENCODER, DATA, ENCODER]


@pytest.mark.parametrize("content", ["", "[]", "{", '{"/x": 3}'])
def test_damaged_memory_of_hashes_is_ignored(own_bundle: Path, content: str) -> None:
    cache_directory().mkdir(parents=True)
    (cache_directory() / "hashes.json").write_text(content)
    Bundle.open(own_bundle).checked_path(ENCODER)


def test_cache_that_cannot_be_written_is_no_error(own_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null/nowhere")
    Bundle.open(own_bundle).checked_path(ENCODER)


def test_weights_outside_the_bundle_are_refused_before_anything_is_loaded(own_bundle: Path) -> None:
    (own_bundle.parent / "stolen.data").write_bytes((own_bundle / DATA).read_bytes())
    (own_bundle / "linked.data").symlink_to(own_bundle.parent / "stolen.data")
    for location, message in (
        ("../stolen.data", "leaves the bundle"),
        (str(own_bundle.parent / "stolen.data"), "leaves the bundle"),
        ("linked.data", "is not listed"),
        ("unlisted.data", "is not listed"),
    ):
        (own_bundle / ENCODER).write_bytes(encoder_model(6, 6, external=location).SerializeToString())
        (own_bundle / "linked.data").unlink(missing_ok=True)
        relist(own_bundle)
        (own_bundle / "linked.data").symlink_to(own_bundle.parent / "stolen.data")
        bundle = Bundle.open(own_bundle)
        with pytest.raises(BundleError, match=f"{ENCODER}: its weights: .*{message}"):
            bundle.checked_graph(ENCODER)
        with pytest.raises(BundleError, match=message):
            bundle.verify_all()


def test_external_locations_are_found_wherever_a_tensor_can_be(tmp_path: Path) -> None:
    def outside(name: str) -> onnx.TensorProto:
        tensor = onnx.TensorProto(name=name, data_type=1, dims=[1], data_location=onnx.TensorProto.EXTERNAL)
        tensor.external_data.add(key="offset", value="location")
        tensor.external_data.add(key="location", value=f"{name}.data")
        return tensor

    model = encoder_model(6, 6)
    inner = onnx.helper.make_graph([], "inner", [], [], [outside("inner")])
    constant = onnx.helper.make_node("Constant", [], ["c"], value=outside("attribute"))
    branch = onnx.helper.make_node("If", ["c"], ["d"], then_branch=inner)
    model.graph.node.extend([constant, branch])
    sparse = onnx.SparseTensorProto(values=outside("values"), indices=outside("indices"), dims=[1])
    model.graph.sparse_initializer.append(sparse)
    function = onnx.helper.make_function("d", "f", [], ["c"], [constant], [onnx.helper.make_opsetid("", 20)])
    function.node[0].attribute[0].t.CopyFrom(outside("function"))
    model.functions.append(function)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    wanted = {"inner.data", "attribute.data", "values.data", "indices.data", "function.data"}
    assert external_locations(tmp_path / "m.onnx") == wanted


@pytest.mark.parametrize(
    "content", [b"", b"\xff" * 40, b"not an onnx file at all", b"\x3a\xff\xff\xff\xff\x0f"]
)
def test_file_that_is_no_onnx_is_told(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(BundleError, match=r"m\.onnx is"):
        external_locations(tmp_path / "m.onnx")


def test_manifest_fixture_is_what_the_schema_describes(bundle_path: Path) -> None:
    document = json.loads((bundle_path / "bundle.json").read_text())
    assert set(document["files"]) == {path.name for path in bundle_path.iterdir()} - {"bundle.json"}


def resumed_entry() -> dict[str, Any]:
    """`text_encoder.resumed` of a tower of one layer with two heads of width 4."""

    def tensor(name: str, dtype: str, *shape: int | str) -> dict[str, Any]:
        return {"name": name, "dtype": dtype, "shape": list(shape)}

    present = ("batch", 2, "tokens", 4)
    return {
        "file": "text_encoder.onnx",
        "inputs": [
            tensor("tokens", "int64", "batch", "tokens"),
            tensor("past", "float32", 1, 2, "beginnings", 2, "known", 4),
            tensor("past_lengths", "int64", "beginnings"),
            tensor("beginnings", "int64", "batch"),
        ],
        "outputs": [
            tensor("embeddings", "float32", "batch", 8),
            tensor("present.0.key", "float32", *present),
            tensor("present.0.value", "float32", *present),
        ],
        "axes": {},
        "parity": {},
    }


def test_a_resumed_text_encoder_is_read(own_bundle: Path) -> None:
    edit_manifest(own_bundle, lambda document: document["text_encoder"].update(resumed=resumed_entry()))
    text = Bundle.open(own_bundle).text_encoder
    assert text.resumed is not None
    assert text.graphs == (text, text.resumed)


def int8_entry(document: dict[str, Any]) -> dict[str, Any]:
    """`text_encoder.int8` with the float32 file's tensors."""
    entry = {name: document["text_encoder"][name] for name in ("file", "inputs", "outputs", "axes", "parity")}
    return copy.deepcopy(entry) | {"quantization": {}, "resumed": resumed_entry()}


def test_an_int8_text_encoder_is_read(own_bundle: Path) -> None:
    edit_manifest(own_bundle, lambda document: document["text_encoder"].update(int8=int8_entry(document)))
    bundle = Bundle.open(own_bundle)
    assert list(bundle.text_encoder.precisions) == ["fp32", "int8"]
    assert bundle.text_graphs("int8") is bundle.text_encoder.int8
    with pytest.raises(BackendError, match="no text encoder in precision 'bf16'; the bundle has: fp32, int8"):
        bundle.text_graphs("bf16")


@pytest.mark.parametrize("file", ["text_encoder.int8.onnx", "../text_encoder.onnx"])
@pytest.mark.parametrize("resumed", [False, True])
def test_an_int8_text_encoder_that_is_not_listed_is_refused(
    own_bundle: Path, file: str, resumed: bool
) -> None:
    def edit(document: dict[str, Any]) -> None:
        entry = document["text_encoder"]["int8"] = int8_entry(document)
        (entry["resumed"] if resumed else entry)["file"] = file

    edit_manifest(own_bundle, edit)
    refuse(own_bundle, "does not list it" if ".." not in file else "leaves the bundle")


@pytest.mark.parametrize("resumed", [False, True])
def test_an_int8_text_encoder_of_other_shapes_is_refused(own_bundle: Path, resumed: bool) -> None:
    def edit(document: dict[str, Any]) -> None:
        entry = document["text_encoder"]["int8"] = int8_entry(document)
        (entry["resumed"] if resumed else entry)["outputs"][0]["shape"] = ["batch", 7]

    edit_manifest(own_bundle, edit)
    refuse(own_bundle, "embeddings")


@pytest.mark.parametrize(
    ("side", "place", "shape", "message"),
    [
        ("inputs", 1, [1, 2, "beginnings", "heads", "known", 4], "past"),
        ("inputs", 1, [1, 2], "past"),
        ("outputs", 2, ["batch", 3, "tokens", 4], r"present\.0\.value"),
        ("outputs", 0, ["batch", 7], "embeddings"),
    ],
)
def test_a_resumed_text_encoder_of_other_shapes_is_refused(
    own_bundle: Path, side: str, place: int, shape: list[int | str], message: str
) -> None:
    entry = resumed_entry()
    entry[side][place]["shape"] = shape
    edit_manifest(own_bundle, lambda document: document["text_encoder"].update(resumed=entry))
    refuse(own_bundle, message)
