"""The TensorRT backends on a fake driver and a fake TensorRT that runs the bundle's ONNX: the whole way of an image."""

import gc
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("cuda.bindings", reason="cuda-python is not installed (extra dev)")

from scclip_rt import Segmenter
from scclip_rt.backends import choose as choose_module
from scclip_rt.backends import cuda, open_backend
from scclip_rt.backends import tensorrt as backend_module
from scclip_rt.backends.choose import choose
from scclip_rt.backends.cuda import decode as decoding
from scclip_rt.backends.cuda import device as device_module
from scclip_rt.bundle.bundle import Bundle
from scclip_rt.errors import BackendError, ImageError
from stand_ins.cuda import FakeDriver, ForeignArray
from stand_ins.engine_files import add_engine
from stand_ins.kernels import add_kernels, kernel_list
from stand_ins.tensorrt_runtime import engine_bytes, make_module
from tiny_bundle import EMBED, blocks_image

PROFILE = {"batch": (1, 6, 8), "queries": (1, 20, 40)}
CLASSES = ["red; green, lawn", "blue", "grey, black", "orange"]


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeDriver]:
    driver = FakeDriver()
    wrapped = cuda.Driver(driver)
    module = make_module(driver)
    for place in (backend_module, device_module):
        monkeypatch.setattr(place, "load_driver", lambda: wrapped)
    for place in (backend_module, choose_module):
        monkeypatch.setattr(place, "library_module", lambda _: module)
    yield driver
    device_module._OPEN.clear()


_ASIDE = ("cuCtxGetCurrent", "cuCtxSetCurrent", "cuMemGetInfo")


def with_engine(root: Path, **profile: Any) -> Path:
    """Add an engine for the fake GPU, and make the bundle's encoder its ONNX file."""
    content = engine_bytes(root / "encoder.fp32.onnx", **{**PROFILE, **profile})
    add_engine(root, content=content, compute_capabilities=["9.0"], device=None)
    return root


def segmenter(root: Path, *, backend: str = "tensorrt", **options: Any) -> Segmenter:
    return Segmenter(root, classes=CLASSES, templates="none", backend=backend, **options)


def expected(root: Path, image: np.ndarray, *, confidence: bool = False, **options: Any) -> Any:
    return segmenter(root, backend="onnxruntime", **options)(image, confidence=confidence)


def windows_of(count: int) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (count, 96, 96, 3), dtype=np.uint8)


def unit_text(queries: int) -> np.ndarray:
    rows = np.random.default_rng(4).normal(size=(queries, EMBED)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize("count", [1, 3, 8, 19])
@pytest.mark.parametrize("queries", [1, 5, 40, 41])
def test_features_and_cosines_are_the_graphs(
    own_bundle: Path, fake: FakeDriver, count: int, queries: int
) -> None:
    bundle = Bundle.open(with_engine(own_bundle))
    windows, text = windows_of(count), unit_text(queries)
    features, logits = open_backend(bundle, backend="tensorrt").run(windows, text)
    wanted_features, wanted_logits = open_backend(bundle, backend="onnxruntime").run(windows, text)
    np.testing.assert_array_equal(features, wanted_features)
    np.testing.assert_allclose(logits, wanted_logits, atol=1e-6)


def test_a_batch_equals_its_singles(own_bundle: Path, fake: FakeDriver) -> None:
    backend = open_backend(Bundle.open(with_engine(own_bundle)), backend="tensorrt", batch=3)
    windows = windows_of(7)
    singles = np.concatenate([backend.features(window[None]) for window in windows])
    np.testing.assert_array_equal(backend.features(windows), singles)


def test_a_graph_that_takes_no_less_is_filled_up(own_bundle: Path, fake: FakeDriver) -> None:
    bundle = Bundle.open(with_engine(own_bundle, batch=(4, 6, 8), queries=(3, 20, 40)))
    windows = windows_of(10)
    wanted = open_backend(bundle, backend="onnxruntime").features(windows)
    np.testing.assert_array_equal(open_backend(bundle, backend="tensorrt").features(windows), wanted)


def test_repeated_runs_become_one_launch(own_bundle: Path, fake: FakeDriver) -> None:
    backend = open_backend(Bundle.open(with_engine(own_bundle)), backend="tensorrt")
    rng = np.random.default_rng(0)
    bundle = Bundle.open(own_bundle)
    reference = open_backend(bundle, backend="onnxruntime")
    for _ in range(4):
        windows = rng.integers(0, 256, (3, 96, 96, 3), dtype=np.uint8)
        np.testing.assert_array_equal(backend.features(windows), reference.features(windows))
    assert fake.count("cuGraphLaunch") == 3  # the second run is captured and launched
    details = backend.describe()["details"]
    assert details["cuda_graphs"] == 1


@pytest.mark.parametrize("kernels", [True, False])
@pytest.mark.parametrize(
    "options",
    [{}, {"prob_threshold": 0.4}, {"area_threshold": 0.2, "background": "blue", "prob_threshold": 0.3}],
)
def test_labels_are_those_of_the_cpu(
    own_bundle: Path, fake: FakeDriver, kernels: bool, options: dict[str, Any]
) -> None:
    with_engine(own_bundle)
    if kernels:
        add_kernels(own_bundle, fake)
    image = blocks_image(260, 410)
    segment = segmenter(own_bundle, **options)
    for confidence in (False, True):
        result = segment(image, confidence=confidence)
        wanted = expected(own_bundle, image, confidence=confidence, **options)
        np.testing.assert_array_equal(result.labels, wanted.labels)
        if confidence:
            np.testing.assert_allclose(result.confidence, wanted.confidence, atol=1e-5)
    details = segment.backend.describe()["details"]
    assert (details["decode"] == "on the GPU") is kernels


@pytest.mark.parametrize(("options", "passes"), [({}, 1), ({"area_threshold": 0.2, "background": "blue"}, 2)])
def test_strips_of_columns_are_the_whole(
    own_bundle: Path, fake: FakeDriver, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], passes: int
) -> None:
    """410 columns are 13 blocks: strips of all and of six, the last cut short; as graphs in the end."""
    add_kernels(with_engine(own_bundle), fake)
    image, launches = blocks_image(260, 410), []
    wanted = expected(own_bundle, image, confidence=True, **options)
    for per_strip in (13, 6):
        monkeypatch.setattr(decoding, "blocks_per_strip", lambda blocks, _, per=per_strip: min(blocks, per))
        segment, before = segmenter(own_bundle, **options), fake.count("cuLaunchKernel")
        for _ in range(3):
            result = segment(image, confidence=True)
            np.testing.assert_array_equal(result.labels, wanted.labels)
            np.testing.assert_allclose(result.confidence, wanted.confidence, atol=1e-5)
            launches.append(fake.count("cuLaunchKernel") - before)
    firsts = launches[::3]
    assert firsts[1] - firsts[0] == (2 * 3 * passes) - (
        1 + passes
    )  # columns again for each strip of each pass
    assert launches[1::3] == launches[2::3]  # from the second on it is one graph


def test_strips_fit_their_memory_and_are_of_equal_width(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "STRIP_BYTES", 1000)
    assert decoding.blocks_per_strip(16, 10) == 16
    assert decoding.blocks_per_strip(16, 70) == 8  # not fourteen and two
    assert decoding.blocks_per_strip(13, 200) == 5
    assert decoding.blocks_per_strip(13, 5000) == 1  # one does not fit, but there is no less


def test_only_labels_come_back(own_bundle: Path, fake: FakeDriver) -> None:
    add_kernels(with_engine(own_bundle), fake)
    segment = segmenter(own_bundle)
    image = blocks_image(200, 300)
    for _ in range(3):
        segment(image)
    before = len(fake.calls)
    segment(image)
    work = [call.name for call in fake.calls[before:] if call.name not in _ASIDE]
    assert work == ["cuGraphLaunch", "cuStreamSynchronize"]
    downloads = [call.arguments[2] for call in fake.calls if call.name == "cuMemcpyDtoHAsync"]
    uploads = [call.arguments[2] for call in fake.calls if call.name == "cuMemcpyHtoDAsync"]
    assert set(uploads) == {image.nbytes}
    assert max(downloads) < 200 * 300 + 1024


def test_new_pixels_go_through_the_captured_graph(own_bundle: Path, fake: FakeDriver) -> None:
    add_kernels(with_engine(own_bundle), fake)
    segment = segmenter(own_bundle)
    for seed in range(4):
        image = blocks_image(150, 220, seed)
        np.testing.assert_array_equal(segment(image).labels, expected(own_bundle, image).labels)


def test_more_windows_than_the_engine_takes(own_bundle: Path, fake: FakeDriver) -> None:
    add_kernels(with_engine(own_bundle, batch=(2, 2, 3)), fake)
    image = blocks_image(130, 700)
    # The second run's cosines would lie at an address that TensorRT refuses (it wants multiples of 256).
    assert 3 * 4 * 36 * len(segmenter(own_bundle).vocabulary.embeddings) % 256
    segment = segmenter(own_bundle)
    for _ in range(3):
        np.testing.assert_array_equal(segment(image).labels, expected(own_bundle, image).labels)
    assert fake.count("cuGraphLaunch") == 0  # several runs of one context stay out of graphs


def test_more_queries_than_the_engine_takes_are_decoded_on_the_host(
    own_bundle: Path, fake: FakeDriver
) -> None:
    add_kernels(with_engine(own_bundle, queries=(1, 2, 3)), fake)
    image = blocks_image()
    np.testing.assert_array_equal(segmenter(own_bundle)(image).labels, expected(own_bundle, image).labels)
    assert not any("decode" in str(call.arguments[0]) for call in fake.calls if call.name == "cuLaunchKernel")


def test_another_vocabulary_is_another_plan(own_bundle: Path, fake: FakeDriver) -> None:
    add_kernels(with_engine(own_bundle), fake)
    first = segmenter(own_bundle)
    second = first.with_classes(["yellow", "violet"])
    image = blocks_image()
    reference = segmenter(own_bundle, backend="onnxruntime")
    for _ in range(3):
        np.testing.assert_array_equal(first(image).labels, reference(image).labels)
        labels = reference.with_classes(["yellow", "violet"])(image).labels
        np.testing.assert_array_equal(second(image).labels, labels)


def test_many_sizes_do_not_pile_up(own_bundle: Path, fake: FakeDriver) -> None:
    add_kernels(with_engine(own_bundle), fake)
    segment = segmenter(own_bundle)
    gc.disable()  # memory has to be freed by closing, not when Python gets around to it
    try:
        used = []
        for i in range(24):
            segment(blocks_image(200 + i % 12, 310 + i))  # 128 by 193 to 207 pixels resized: eight windows
            used.append(fake.used)
    finally:
        gc.enable()
    assert max(used[12:]) < 1.1 * max(used[:12])
    segment.backend.close()
    gc.collect()
    assert fake.used == 0


def test_images_on_the_device_are_taken_where_they_are(own_bundle: Path, fake: FakeDriver) -> None:
    add_kernels(with_engine(own_bundle), fake)
    image = blocks_image(260, 410)
    segment = segmenter(own_bundle)
    for _ in range(3):
        result = segment(ForeignArray(fake, image))
        np.testing.assert_array_equal(result.labels, expected(own_bundle, image).labels)
        assert result.image is None
    assert fake.count("cuMemcpyHtoDAsync") == 0


def test_without_the_kernel_an_image_on_the_device_must_have_its_size(
    own_bundle: Path, fake: FakeDriver
) -> None:
    items = [item for item in kernel_list() if item["name"] != "resize_windows"]
    add_kernels(with_engine(own_bundle), fake, items)
    segment = segmenter(own_bundle)
    right_size = blocks_image(128, 192)
    labels = segment(ForeignArray(fake, right_size)).labels
    np.testing.assert_array_equal(labels, expected(own_bundle, right_size).labels)
    with pytest.raises(BackendError, match=r"has to be resized there.*--gpu-kernels"):
        segment(ForeignArray(fake, blocks_image(200, 300)))


def test_images_on_the_device_need_a_backend_that_is_there(bundle_path: Path, fake: FakeDriver) -> None:
    segment = segmenter(bundle_path, backend="onnxruntime")
    with pytest.raises(ImageError, match=r"on a GPU.*--backend tensorrt"):
        segment(ForeignArray(fake, blocks_image()))


def test_threads_share_an_encoder(own_bundle: Path, fake: FakeDriver) -> None:
    add_kernels(with_engine(own_bundle), fake)
    segment = segmenter(own_bundle)
    images = [blocks_image(150 + 10 * (i % 3), 220, i) for i in range(12)]
    wanted = [expected(own_bundle, image).labels for image in images]
    wrong: list[int] = []

    def work(first: int) -> None:
        mine = range(first, len(images), 4)
        wrong.extend(i for i in mine if not np.array_equal(segment(images[i]).labels, wanted[i]))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert segment.backend.describe()["details"]["streams"] <= 2


def test_the_callers_gpu_stays_current(own_bundle: Path, fake: FakeDriver) -> None:
    """torch takes the thread's context for the GPU that its next tensor belongs on."""
    add_kernels(with_engine(own_bundle), fake)
    other = 0xD1
    fake.cuCtxSetCurrent(other)
    segment = segmenter(own_bundle)
    image = blocks_image()
    segment(image)
    segment.backend.features(windows_of(2))
    segment.backend.describe()
    assert int(fake.cuCtxGetCurrent()[1]) == other
    fake.faults["cuStreamSynchronize"] = "UNKNOWN"
    with pytest.raises(BackendError):
        segment(image)
    del fake.faults["cuStreamSynchronize"]
    assert int(fake.cuCtxGetCurrent()[1]) == other
    segment.backend.close()
    del segment
    gc.collect()
    assert int(fake.cuCtxGetCurrent()[1]) == other
    assert fake.used == 0


def test_streams_of_images(own_bundle: Path, fake: FakeDriver) -> None:
    add_kernels(with_engine(own_bundle), fake)
    images = [blocks_image(150 + 10 * (i % 3), 220, i) for i in range(7)]
    for image, result in zip(images, segmenter(own_bundle).stream(images), strict=True):
        np.testing.assert_array_equal(result.labels, expected(own_bundle, image).labels)
    assert max(call.arguments[2] for call in fake.calls if call.name == "cuMemcpyDtoHAsync") < 100_000


def test_an_interrupted_run_does_not_spoil_the_next(
    own_bundle: Path, fake: FakeDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_kernels(with_engine(own_bundle), fake)
    segment = segmenter(own_bundle)
    first, second = blocks_image(150, 220, 1), blocks_image(150, 220, 2)
    segment(first)
    fake.faults["cuStreamSynchronize"] = "UNKNOWN"
    with pytest.raises(BackendError):
        segment(first)
    del fake.faults["cuStreamSynchronize"]
    before = len(fake.calls)
    np.testing.assert_array_equal(segment(second).labels, expected(own_bundle, second).labels)
    # What the first left on the stream is waited for before its pinned memory is written again.
    work = [
        call.name for call in fake.calls[before:] if call.name in ("cuStreamSynchronize", "cuGraphLaunch")
    ]
    assert work[:2] == ["cuStreamSynchronize", "cuGraphLaunch"]


def test_nan_never_passes_for_labels(own_bundle: Path, fake: FakeDriver) -> None:
    add_kernels(with_engine(own_bundle), fake)
    segment = segmenter(own_bundle)
    segment.vocabulary.embeddings[0, 0] = np.nan
    with pytest.raises(BackendError, match="NaN or infinity"):
        segment(blocks_image())


def test_out_of_memory_says_for_what(own_bundle: Path, fake: FakeDriver) -> None:
    add_kernels(with_engine(own_bundle), fake)
    segment = segmenter(own_bundle)
    fake.memory = fake.used + 200_000
    with pytest.raises(BackendError, match=r"no room for .* wanted, .* free.*--batch"):
        segment(blocks_image())
    fake.memory = 1 << 30
    segment(blocks_image())


def test_description_says_what_runs_where(own_bundle: Path, fake: FakeDriver) -> None:
    add_kernels(with_engine(own_bundle), fake)
    segment = segmenter(own_bundle)
    segment(blocks_image())
    info = segment.backend.describe()
    assert (info["backend"], info["provider"], info["device"]) == ("tensorrt", "TensorRT", "cuda:0")
    assert (info["encoder"], info["precision"], info["batch"]) == ("engines/one.engine", "fp32", 8)
    details = info["details"]
    assert details["gpu"] == "Fake 0"
    assert details["device_memory_held"] == fake.used + 1000  # the fake engine's own count of its weights


def test_kernels_for_another_gpu_are_said(own_bundle: Path, fake: FakeDriver) -> None:
    add_kernels(with_engine(own_bundle), fake, kernel_list("8.9"))
    segment = segmenter(own_bundle)
    image = blocks_image()
    np.testing.assert_array_equal(segment(image).labels, expected(own_bundle, image).labels)
    decode = segment.backend.describe()["details"]["decode"]
    assert decode == "on the CPU: the bundle's kernels are for sm_89, this GPU is sm_90"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "cpu"}, "backend 'tensorrt' runs on an NVIDIA GPU, not on 'cpu'"),
        ({"device": "cuda:3"}, r"no cuda:3; this process sees: cuda:0 \(Fake 0\)"),
        ({"ort_provider": "cuda"}, "--ort-provider cuda is for backend 'onnxruntime'"),
        ({"precision": "fp16"}, r"is fp32, not fp16.*scclip-export --bundle .* --tensorrt"),
        ({"grid": "whole"}, "is for the grid window 6×6, not dynamic"),
    ],
)
def test_what_does_not_fit_is_refused(
    own_bundle: Path, fake: FakeDriver, options: dict[str, Any], message: str
) -> None:
    bundle = Bundle.open(with_engine(own_bundle))
    with pytest.raises(BackendError, match=message):
        open_backend(bundle, backend="tensorrt", **options)


@pytest.mark.parametrize("device", ["auto", "cuda:0"])
def test_auto_prefers_an_engine_that_fits(
    own_bundle: Path, fake: FakeDriver, monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    monkeypatch.setattr(choose_module.importlib.util, "find_spec", lambda name: name == "tensorrt")
    bundle = Bundle.open(with_engine(own_bundle))
    for precision in ("auto", "fast"):
        info = open_backend(bundle, device=device, precision=precision).describe()
        assert (info["backend"], info["precision"]) == ("tensorrt", "fp32")  # the only one there is
        assert "engines/one.engine fits cuda:0 (Fake 0, sm_90)" in info["reason"]
        found = choose(bundle, device=device, precision=precision)
        assert (found.backend, found.precision) == ("tensorrt", "fp32")


def test_auto_without_a_fitting_engine_says_why(
    own_bundle: Path, fake: FakeDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choose_module.importlib.util, "find_spec", lambda name: name == "tensorrt")
    add_engine(own_bundle, compute_capabilities=["8.6"])
    bundle = Bundle.open(own_bundle)
    assert open_backend(bundle).describe()["backend"] == "onnxruntime"
    choice = choose(bundle, device="cuda:0")
    assert choice.backend == "onnxruntime"
    assert "is for compute capability 8.6; this GPU has 9.0" in choice.reason
    monkeypatch.setattr(choose_module.importlib.util, "find_spec", lambda _: None)
    assert "tensorrt is not installed" in choose(bundle, device="cuda:0").reason


def test_the_named_backend_needs_no_named_device(own_bundle: Path, fake: FakeDriver) -> None:
    choice = choose(Bundle.open(own_bundle), backend="tensorrt")
    assert (choice.backend, choice.precision) == ("tensorrt", "auto")
    assert choose(Bundle.open(own_bundle), backend="tensorrt-rtx", precision="fast").precision == "fast"


def test_scclip_bench_measures_it_by_the_same_interface(own_bundle: Path, fake: FakeDriver) -> None:
    from scclip_rt.bench.case import Case, Workload
    from scclip_rt.bench.contender import Contender, Reference

    add_kernels(with_engine(own_bundle), fake)
    workload = Workload(image_size=(150, 220), queries=7, stream=3)
    case = Case(bundle=str(own_bundle), backend="tensorrt", device="cuda:0", workload=workload)
    contender = Contender(case)
    contender.check(Reference(case).features(contender.windows()))
    sample = contender.sample()
    assert 0 < sample.encode <= sample.total
    assert contender.stream(3) > 0
    assert contender.describe().backend["backend"] == "tensorrt"
    cpu = Contender(Case(bundle=str(own_bundle), backend="onnxruntime", device="cpu", workload=workload))
    np.testing.assert_array_equal(contender.labels(), cpu.labels())


def test_a_bundle_without_an_engine(bundle_path: Path, fake: FakeDriver) -> None:
    with pytest.raises(BackendError, match=r"no engine .*scclip-export --bundle .* --tensorrt"):
        open_backend(Bundle.open(bundle_path), backend="tensorrt")


def test_a_damaged_engine_brings_tensorrts_words(own_bundle: Path, fake: FakeDriver) -> None:
    add_engine(own_bundle, content=b"rubbish", compute_capabilities=["9.0"])
    with pytest.raises(
        BackendError, match=r"can't be loaded on cuda:0 .*the magic tag is wrong.*Build it again with"
    ):
        open_backend(Bundle.open(own_bundle), backend="tensorrt")


def test_an_engine_of_other_tensors(own_bundle: Path, fake: FakeDriver) -> None:
    content = engine_bytes(own_bundle / "encoder.fp32.onnx", **PROFILE, dtypes={"features": "HALF"})
    add_engine(own_bundle, content=content, compute_capabilities=["9.0"])
    with pytest.raises(BackendError, match=r"features HALF.*needed: .*features FLOAT"):
        open_backend(Bundle.open(own_bundle), backend="tensorrt")


def test_the_real_library_refuses_rubbish_in_one_line(
    own_bundle: Path, fake: FakeDriver, monkeypatch: Any
) -> None:
    """TensorRT-RTX itself, as far as it goes without a GPU: loading fails, and its words reach the message."""
    real = pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")
    add_engine(
        own_bundle,
        content=b"rubbish" * 100,
        library="tensorrt-rtx",
        library_version=real.__version__,
        compute_capabilities=["9.0"],
    )
    for place in (backend_module, choose_module):
        monkeypatch.setattr(place, "library_module", lambda _: real)
    with pytest.raises(
        BackendError, match=r"can't be loaded on .*deserializeCudaEngine.*Build it again"
    ) as caught:
        open_backend(Bundle.open(own_bundle), backend="tensorrt-rtx")
    assert "\n" not in str(caught.value)
