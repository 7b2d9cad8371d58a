"""One ONNX file for everybody's tools: an image in, a map out, with a vocabulary inside (docs/baking.md).

Needs `onnx`, extra `bake`; nothing else of the runtime does.
"""
