"""The calibration's kernels as TensorRT plug-ins."""
