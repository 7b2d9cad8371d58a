from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from scclip_export.onnx.shared_weights import external_data, save_model, share_weights


def write(path: Path, tensors: dict[str, NDArray[np.float32]]) -> None:
    """An ONNX file that adds external weights to its input, one after the other."""
    names = ["x", *(f"after_{name}" for name in tensors)]
    nodes = [
        helper.make_node("Add", [before, name], [after])
        for before, name, after in zip(names, tensors, names[1:], strict=False)
    ]
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [4000]) for name in (names[0], names[-1])
    ]
    weights = [numpy_helper.from_array(array, name) for name, array in tensors.items()]
    model = helper.make_model(helper.make_graph(nodes, "adds", values[:1], values[1:], weights))
    onnx.save(model, str(path), save_as_external_data=True, location=f"{path.name}.data", size_threshold=0)


def test_equal_tensors_are_stored_once_whatever_their_names(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    first, second, third = rng.standard_normal((3, 4000)).astype(np.float32)
    inside = second.copy()
    inside[2000] += 1.0  # equal at both ends, and as long
    write(tmp_path / "base.onnx", {"a": first, "b": second})
    write(tmp_path / "other.onnx", {"of_second": second, "inside": inside, "a": first, "own": third})

    assert share_weights(tmp_path / "other.onnx", tmp_path / "base.onnx") == first.nbytes + second.nbytes

    model = onnx.load(str(tmp_path / "other.onnx"), load_external_data=False)
    places = {tensor.name: external_data(tensor)[0] for tensor in model.graph.initializer}
    assert places == dict.fromkeys(("of_second", "a"), "base.onnx.data") | dict.fromkeys(
        ("inside", "own"), "other.onnx.data"
    )
    loaded = {
        t.name: numpy_helper.to_array(t) for t in onnx.load(str(tmp_path / "other.onnx")).graph.initializer
    }
    for name, array in {"of_second": second, "inside": inside, "a": first, "own": third}.items():
        np.testing.assert_array_equal(loaded[name], array)


def test_a_file_with_nothing_of_its_own_goes_away(tmp_path: Path) -> None:
    weight = np.arange(4000, dtype=np.float32)
    for name in ("base.onnx", "other.onnx"):
        write(tmp_path / name, {"a": weight})

    share_weights(tmp_path / "other.onnx", tmp_path / "base.onnx")

    assert not (tmp_path / "other.onnx.data").exists()
    np.testing.assert_array_equal(
        numpy_helper.to_array(onnx.load(str(tmp_path / "other.onnx")).graph.initializer[0]), weight
    )


def test_what_another_file_has_is_not_written_again(tmp_path: Path) -> None:
    first, second = np.random.default_rng(0).standard_normal((2, 4000)).astype(np.float32)
    inside = second.copy()
    inside[2000] += 1.0  # equal at both ends, and as long
    write(tmp_path / "base.onnx", {"a": first, "b": second})
    write(tmp_path / "other.onnx", {"of_second": second, "inside": inside, "a": first})
    read = ir.load(tmp_path / "other.onnx")

    save_model(read, tmp_path / "saved.onnx", tmp_path / "base.onnx")

    assert (tmp_path / "saved.onnx.data").stat().st_size == inside.nbytes
    loaded = {t.name: t for t in onnx.load(str(tmp_path / "saved.onnx")).graph.initializer}
    for name, array in {"of_second": second, "inside": inside, "a": first}.items():
        np.testing.assert_array_equal(numpy_helper.to_array(loaded[name]), array)

    save_model(ir.load(tmp_path / "base.onnx"), tmp_path / "same.onnx", tmp_path / "base.onnx")
    assert not (tmp_path / "same.onnx.data").exists()


def test_weights_in_another_file_stay_there(tmp_path: Path) -> None:
    weight = np.arange(4000, dtype=np.float32)
    for name in ("base.onnx", "window.onnx", "other.onnx"):
        write(tmp_path / name, {"a": weight})

    share_weights(tmp_path / "other.onnx", tmp_path / "base.onnx")

    assert share_weights(tmp_path / "other.onnx", tmp_path / "window.onnx") == 0
    (tensor,) = onnx.load(str(tmp_path / "other.onnx"), load_external_data=False).graph.initializer
    assert external_data(tensor)[0] == "base.onnx.data"
