"""scclip-export: from a CLIP checkpoint to a calibrated ONNX bundle."""
