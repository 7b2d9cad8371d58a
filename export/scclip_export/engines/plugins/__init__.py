"""Triton kernels inside TensorRT engines."""
