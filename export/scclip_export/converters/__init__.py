"""Baked files in the formats of engines that read torch programs, not ONNX: the baked graph is run as a torch module.

Each module is a `scclip_rt.baking.converters.base.Converter`, and passes through the same gate.
"""
