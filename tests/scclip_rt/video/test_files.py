"""Video files: read as they are shown, written whole or not at all."""

import threading
from fractions import Fraction
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import av
import numpy as np
import pytest

from scclip_rt.errors import ImageError, OptionError, OutputError
from scclip_rt.segmentation import Segmentation
from scclip_rt.video import Frame, MaskVideo, OverlayVideo, read_frames, read_masks

TIMES = [Fraction(time) for time in ("0", "0.04", "0.1", "0.5", "0.5", "2")]


def pictures(count=6, shape=(48, 64)):
    """A bar that goes from left to right."""
    for number in range(count):
        image = np.full((*shape, 3), 40, np.uint8)
        image[:, number * 8 : number * 8 + 8] = (220, 60, 30)
        yield image


@pytest.fixture
def film(tmp_path):
    """Six frames at uneven times, stored losslessly as RGB."""
    path = tmp_path / "film.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "bgr0"
        stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        for image, time in zip(pictures(), (0, 40, 100, 500, 600, 2000), strict=True):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format="bgr0")
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def results(dtype=np.uint8, classes=3):
    rng = np.random.default_rng(0)
    unlabelled = np.iinfo(dtype).max
    for number, image in enumerate(pictures()):
        labels = rng.integers(0, classes, image.shape[:2]).astype(dtype)
        labels[:5] = unlabelled
        names = tuple(f"class {index}, ü" for index in range(classes))
        frame = Frame(image=image, number=number, time=TIMES[number])
        yield frame, Segmentation(labels=labels, classes=names, unlabelled=unlabelled, image=image)


def test_frames_come_in_order_with_their_times(film):
    frames = list(read_frames(film))
    assert [frame.number for frame in frames] == list(range(6))
    assert [frame.time for frame in frames] == [
        0,
        Fraction(1, 25),
        Fraction(1, 10),
        Fraction(1, 2),
        Fraction(3, 5),
        2,
    ]
    for frame, image in zip(frames, pictures(), strict=True):
        np.testing.assert_array_equal(frame.image, image)


def test_an_address_is_read_and_counts_from_its_first_frame(film):
    handler = partial(SimpleHTTPRequestHandler, directory=film.parent)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        frames = list(read_frames(f"http://127.0.0.1:{server.server_port}/film.mkv"))
        server.shutdown()
    for frame, image in zip(frames, pictures(), strict=True):
        np.testing.assert_array_equal(frame.image, image)
    assert frames[0].time == 0


def test_every_takes_each_so_many_th(film):
    assert [frame.number for frame in read_frames(film, every=4)] == [0, 4]
    with pytest.raises(OptionError, match="every"):
        read_frames(film, every=0)


def test_a_turned_film_comes_upright(tmp_path):
    path = tmp_path / "phone.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "1"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        if not hasattr(stream, "set_display_rotation"):
            pytest.skip("this PyAV can't write the sign of a turned film")
        stream.set_display_rotation(90)
        stored = next(pictures())
        container.mux(stream.encode(av.VideoFrame.from_ndarray(stored, format="rgb24")))
        container.mux(stream.encode(None))
    (frame,) = read_frames(path)
    assert frame.image.shape == (64, 48, 3)
    assert np.abs(frame.image.astype(int) - np.rot90(stored)).mean() < 8


@pytest.mark.parametrize("content", [None, b"no film", b""])
def test_what_is_no_video_is_said_in_one_message(content, tmp_path):
    path = tmp_path / "film.mp4"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ImageError, match=r"can't read video from .*film\.mp4"):
        list(read_frames(path))


@pytest.mark.parametrize(("dtype", "classes"), [(np.uint8, 3), (np.uint16, 300)])
def test_masks_are_lossless_with_names_and_times(dtype, classes, tmp_path):
    path = tmp_path / "film.masks.mkv"
    written = list(results(dtype, classes))
    with MaskVideo(path, written[0][1].classes) as video:
        for frame, result in written:
            video.add(result, frame)
    masks = list(read_masks(path))
    for mask, (_, result) in zip(masks, written, strict=True):
        assert mask.classes == result.classes
        assert mask.labels.dtype == dtype
        np.testing.assert_array_equal(mask.labels, result.labels)
    times = [float(mask.time) for mask in masks]
    np.testing.assert_allclose(times, [float(time) for time in TIMES], atol=0.0015)
    assert times == sorted(set(times)), "a time was repeated"


def test_an_overlay_shows_the_frames(tmp_path):
    path = tmp_path / "overlay.mp4"
    with OverlayVideo(path) as video:
        for frame, result in results():
            video.add(result, frame)
    frames = list(read_frames(path))
    assert [frame.image.shape for frame in frames] == [(48, 64, 3)] * 6
    for shown, (_, result) in zip(frames, results(), strict=True):
        assert np.abs(shown.image.astype(int) - result.overlay(legend=False)).mean() < 25


def test_a_failure_leaves_no_file_and_an_old_one_stays(tmp_path):
    path = tmp_path / "film.masks.mkv"
    path.write_bytes(b"old")
    with pytest.raises(OutputError, match="--force"), MaskVideo(path, ("a",)):
        pass

    def broken_run() -> None:
        with MaskVideo(path, ("a",), force=True) as video:
            frame, result = next(results())
            video.add(result, frame)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        broken_run()
    assert [file.name for file in tmp_path.iterdir()] == ["film.masks.mkv"]
    assert path.read_bytes() == b"old"


def test_frames_of_two_sizes_are_refused(tmp_path):
    small = Segmentation(labels=np.zeros((10, 12), np.uint8), classes=("a",), unlabelled=255)
    large = Segmentation(labels=np.zeros((20, 12), np.uint8), classes=("a",), unlabelled=255)
    frame = Frame(image=np.zeros((10, 12, 3), np.uint8), number=1, time=None)

    def uneven_run() -> None:
        with MaskVideo(tmp_path / "m.mkv", ("a",)) as video:
            video.add(small, frame)
            video.add(large, frame)

    with pytest.raises(OutputError, match="12×20, those before were 12×10"):
        uneven_run()


def test_a_film_is_no_video_of_labels(film):
    with pytest.raises(ImageError, match="names no classes"):
        list(read_masks(film))


@pytest.mark.parametrize("pixel_format", ["gray", "yuv420p"])
def test_labels_that_were_encoded_again_are_refused(pixel_format, tmp_path):
    """FFmpeg keeps the class names, and decodes grey H.264 as colour (findings/video_gray_labels.sh)."""
    written, again = tmp_path / "film.masks.mkv", tmp_path / "again.mkv"
    with MaskVideo(written, ("a", "b", "c")) as video:
        for frame, result in results():
            video.add(result, frame)
    with av.open(str(written)) as source, av.open(str(again), "w") as target:
        target.metadata.update(source.metadata)
        stream = target.add_stream("libx264", rate=25, options={"qp": "0"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, pixel_format
        for frame in source.decode(video=0):
            target.mux(stream.encode(frame.reformat(format=pixel_format)))
        target.mux(stream.encode(None))
    with pytest.raises(ImageError, match=r"again\.mkv has yuv420p frames, where labels are gray or gray16le"):
        list(read_masks(again))
