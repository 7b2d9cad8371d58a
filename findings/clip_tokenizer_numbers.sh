#!/usr/bin/env bash
# onnxruntime-extensions 0.15.2, operator CLIPTokenizer: CLIP's tokenizer takes each digit of a number as a word of its own. The
# operator, given CLIP's own vocabulary and merges, takes the number as one word, and only its last digit gets the token that
# ends a word. So names with numbers of two digits and more become other tokens than the model was trained with, and another
# embedding; a tab in a text becomes a token too. Nothing is said. Plain names without numbers agree.
# instant-clip-tokenizer 0.1.1 (Rust) gives CLIP's tokens; the vocabulary is that of open-clip-torch 3.3.0.
# Seen, "boeing 747": 11857 278 275 278 as CLIP has it (7, 4, 7), 11857 22 19 278 by the operator. "a dog": the same.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
pip=("$folder/venv/bin/pip" install --quiet --disable-pip-version-check)
"${pip[@]}" onnxruntime-extensions==0.15.2 onnxruntime==1.32.0 onnx==1.23.2 instant-clip-tokenizer==0.1.1 numpy==2.4.6
"${pip[@]}" --no-deps open-clip-torch==3.3.0 # for its vocabulary; it is not imported
cd "$folder"
venv/bin/python - <<'PYTHON'
import gzip
import json
import sysconfig
from pathlib import Path

import instant_clip_tokenizer
import numpy as np
import onnx
import onnxruntime
import onnxruntime_extensions
from onnx import TensorProto, helper

# The vocabulary as CLIP's paper code numbers it: bytes, bytes that end a word, merges, two marks.
file = Path(sysconfig.get_paths()["purelib"]) / "open_clip" / "bpe_simple_vocab_16e6.txt.gz"
merges = gzip.decompress(file.read_bytes()).decode().split("\n")[1 : 49152 - 256 - 2 + 1]
printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
others = [byte for byte in range(256) if byte not in printable]
letters = [chr(byte) for byte in printable] + [chr(256 + i) for i in range(len(others))]
tokens = [*letters, *(letter + "</w>" for letter in letters), *("".join(merge.split()) for merge in merges)]
tokens += ["<|startoftext|>", "<|endoftext|>"]
assert len(tokens) == 49408

node = helper.make_node(
    "CLIPTokenizer",
    ["text"],
    ["ids", "mask", "offsets"],
    domain="ai.onnx.contrib",
    vocab=json.dumps({token: i for i, token in enumerate(tokens)}),
    merges="#version: 0.2\n" + "\n".join(merges) + "\n",
    padding_length=-1,
)
graph = helper.make_graph(
    [node],
    "tokenizer",
    [helper.make_tensor_value_info("text", TensorProto.STRING, [None])],
    [helper.make_tensor_value_info("ids", TensorProto.INT64, [None, None])],
)
opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.contrib", 1)]
options = onnxruntime.SessionOptions()
options.register_custom_ops_library(onnxruntime_extensions.get_library_path())
model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
session = onnxruntime.InferenceSession(model.SerializeToString(), options)
clip = instant_clip_tokenizer.Tokenizer()


def both(text: str) -> tuple[list[int], list[int]]:
    row = clip.tokenize_batch(text, context_length=77)[0].tolist()
    return row[1 : row.index(49407)], session.run(None, {"text": np.array([text], object)})[0][0].tolist()[1:-1]


for text in ("a dog", "traffic light", "2 dogs", "people's car"):
    wanted, found = both(text)
    assert wanted == found, (text, wanted, found)
print("without numbers: the same")
differ = {}
for text in ("boeing 747", "50 cents", "sea\tsand"):
    wanted, found = both(text)
    differ[text] = wanted != found
    print(f"{text!r}: CLIP {wanted} {[tokens[i] for i in wanted]}, the operator {found} {[tokens[i] for i in found]}")
if not all(differ.values()):
    raise SystemExit(f"the operator has CLIP's tokens now: {differ}")
PYTHON
