"""The package `onnx`, which only this room needs."""

from types import ModuleType

from scclip_rt.errors import BackendError


def load_onnx() -> ModuleType:
    """The module `onnx`.

    Raises:
        BackendError: it is not installed.
    """
    try:
        import onnx
        import onnx.checker
        import onnx.defs
        import onnx.helper
        import onnx.numpy_helper
        import onnx.shape_inference
    except ImportError as error:
        raise BackendError(
            f"baking needs onnx, which is not installed ({error}): pip install 'scclip-rt[bake]'"
        ) from error
    module: ModuleType = onnx
    return module
