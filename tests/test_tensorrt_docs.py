"""docs/tensorrt.md: the trtexec line builds what we build, from a file that is there, and the options exist."""

import re
import shlex
from pathlib import Path

import onnx
import pytest

from scclip_export.cli.main import build_parser
from scclip_export.engines import EngineRequest
from scclip_export.engines.build import profile_shape
from scclip_rt.bundle.bundle import Bundle

ROOT = Path(__file__).parents[1]
DOCUMENT = (ROOT / "docs/tensorrt.md").read_text("utf-8")


def trtexec() -> dict[str, str]:
    (line,) = re.findall(r"^trtexec .*$", DOCUMENT, re.MULTILINE)
    words = [word.removeprefix("--").partition("=") for word in shlex.split(line)[1:]]
    return {name: value for name, _, value in words}


def shapes(text: str) -> dict[str, tuple[int, ...]]:
    return {
        name: tuple(int(length) for length in shape.split("x"))
        for name, shape in (entry.split(":") for entry in text.split(","))
    }


@pytest.mark.parametrize(("option", "index"), [("minShapes", 0), ("optShapes", 1), ("maxShapes", 2)])
def test_the_trtexec_line_has_our_profile_and_the_inputs_of_the_file(option: str, index: int) -> None:
    line = trtexec()
    file = ROOT / line["onnx"]
    bundle = Bundle.open(file.parent)
    (encoder,) = [encoder for encoder in bundle.encoders if encoder.file == file.name]
    profile = EngineRequest(library="tensorrt").profile(encoder.grid)
    expected = {tensor.name: profile_shape(tensor.shape, profile, index) for tensor in encoder.inputs}
    assert shapes(line[option]) == expected
    inputs = {value.name: value for value in onnx.load(str(file), load_external_data=False).graph.input}
    assert set(inputs) == set(expected)
    for name, shape in expected.items():
        fixed = [dim.dim_value for dim in inputs[name].type.tensor_type.shape.dim]
        assert all(known in (0, length) for known, length in zip(fixed, shape, strict=True))


def test_the_trtexec_line_is_strongly_typed_without_tf32() -> None:
    assert {"stronglyTyped", "noTF32", "saveEngine"} <= set(trtexec())


def test_every_command_and_option_of_the_document_exists() -> None:
    parser = build_parser()
    for line in re.findall(r"^scclip-export .*$", DOCUMENT, re.MULTILINE):
        parser.parse_args(shlex.split(line.partition(" #")[0])[1:])
    known = set(parser._option_string_actions)
    named = set(re.findall(r"`(--[a-z0-9-]+)", DOCUMENT)) - {"--backend"}
    trtexec_options = {option for option in named if not option.islower()}
    assert named - trtexec_options <= known | {"--bundle"}
