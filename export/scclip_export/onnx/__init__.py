"""From a torch module to an ONNX file, and how such files run here."""
