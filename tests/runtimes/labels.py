"""Run a baked file in one library and compare its labels; needs nothing but that library and numpy."""

import sys
from typing import Any

import numpy as np


def onnxruntime(path: str, image: Any) -> tuple[str, Any]:
    import onnxruntime as library

    session = library.InferenceSession(path, providers=["CPUExecutionProvider"])
    return library.__version__, session.run(None, {"image": image})[0]


def openvino(path: str, image: Any) -> tuple[str, Any]:
    import openvino as library

    compiled = library.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return library.__version__, compiled(image)[0]


def tract(path: str, image: Any) -> tuple[str, Any]:
    import tract as library

    model = library.onnx().load(path).into_model().into_runnable()
    return library.version(), model.run([image])[0].to_numpy()


def opencv(path: str, image: Any) -> tuple[str, Any]:
    import cv2 as library

    network = library.dnn.readNetFromONNX(path)
    network.setInput(image)
    return library.__version__, network.forward()


def reference(path: str, image: Any) -> tuple[str, Any]:
    import onnx as library
    from onnx.reference import ReferenceEvaluator
    from onnx.reference.op_run import OpRun

    class GatherElements(OpRun):
        """onnx's own fails above 63 entries."""

        op_domain = ""

        def _run(self, data: Any, indices: Any, axis: int = 0) -> tuple[Any]:
            return (np.take_along_axis(data, indices, axis=axis),)

    evaluator = ReferenceEvaluator(path, new_ops=[GatherElements])
    return library.__version__, evaluator.run(None, {"image": image})[0]


def geoai(path: str, image: Any) -> tuple[str, Any]:
    """Its own reading, scaling and arg-max, of a GeoTIFF; the task comes from the sidecar FILE.onnx.json."""
    import importlib.metadata
    from pathlib import Path

    import rasterio
    from geoai.onnx import ONNXGeoModel

    planes = np.rint(image[0] * 255).astype(np.uint8)
    raster = Path(path).with_suffix(".tif")
    shape = {"count": 3, "height": planes.shape[1], "width": planes.shape[2], "dtype": "uint8"}
    with rasterio.open(raster, "w", driver="GTiff", **shape) as file:
        file.write(planes)
    model = ONNXGeoModel(path)
    mask = model.predict(str(raster))["mask"]
    return importlib.metadata.version("geoai-py"), (mask == np.arange(len(model.id2label))[:, None, None])[
        None
    ]


LIBRARIES = {
    "onnxruntime": onnxruntime,
    "openvino": openvino,
    "tract": tract,
    "opencv": opencv,
    "reference": reference,
    "geoai": geoai,
}

if __name__ == "__main__":
    name, path, arrays = sys.argv[1:]
    given = np.load(arrays)
    version, maps = LIBRARIES[name](path, given["image"])
    equal = float((maps.argmax(axis=1)[0] == given["labels"]).mean())
    print(f"{name} {version}: {equal:.3%} of labels equal")
    sys.exit(equal != 1.0)
