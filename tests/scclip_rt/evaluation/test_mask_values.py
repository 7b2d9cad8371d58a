"""Masks as people save them: 0 and 255, few bits, upper-case suffixes: right labels, or an error with the way out."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from png_file import GREY, png_file
from scclip_rt.errors import OptionError
from scclip_rt.evaluation import open_dataset
from scclip_rt.evaluation.datasets.masks import IGNORED, MaskRule, read_labels
from scclip_rt.evaluation.errors import DatasetError
from scclip_rt.evaluation.metrics import ConfusionMatrix


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    images, masks = tmp_path / "images", tmp_path / "masks"
    images.mkdir()
    masks.mkdir()
    Image.new("RGB", (12, 10)).save(images / "a.jpg")
    return images, masks


def binary(share: float) -> np.ndarray:
    mask = np.zeros((10, 12), np.uint8)
    mask.ravel()[: round(share * mask.size)] = 255
    return mask


@pytest.mark.parametrize("share", [0.6, 0.02])
def test_binary_masks_of_0_and_255_are_told_with_the_way_out(
    folders: tuple[Path, Path], share: float
) -> None:
    images, masks = folders
    Image.fromarray(binary(share)).save(masks / "a.png")

    def dataset(**options: object) -> object:
        return open_dataset("folder", images=images, masks=masks, classes="background; polyp", **options)

    with pytest.raises(DatasetError, match=r"no pixel is 'polyp'.*--mask-values 0,255.*--ignore-label 255"):
        dataset()
    truth = dataset(values=(0, 255)).samples[0].truth()
    np.testing.assert_array_equal(truth, binary(share) // 255)
    truth = dataset(ignore=255).samples[0].truth()
    np.testing.assert_array_equal(truth == IGNORED, binary(share) == 255)


def test_borders_of_255_are_no_class(folders: tuple[Path, Path]) -> None:
    images, masks = folders
    mask = np.zeros((10, 12), np.uint8)
    mask[5:], mask[4] = 1, 255
    Image.fromarray(mask).save(masks / "a.PNG")  # and suffixes in upper case are found
    dataset = open_dataset("folder", images=images, masks=masks, classes="background; cat; dog")
    assert len(dataset) == 1


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((0,), "a different value for each of the 2"),
        ((0, 0), "a different value"),
        ((0, 70000), "from 0 to 65535"),
    ],
)
def test_values_must_name_every_class_once(values: tuple[int, ...], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        MaskRule(num_classes=2, ignore=None, values=values)


def test_a_value_that_is_not_listed_is_refused(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 255, 7]], np.uint8)).save(tmp_path / "m.png")
    with pytest.raises(DatasetError, match=r"value 7 is none of --mask-values 0, 255 \(1 pixels\)"):
        MaskRule(num_classes=2, ignore=None, values=(0, 255)).read(tmp_path / "m.png")


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_grey_masks_of_few_bits_are_read_as_stored(tmp_path: Path, bits: int) -> None:
    labels = (np.arange(40).reshape(4, 10) % (1 << bits)).astype(np.uint8)
    (tmp_path / "m.png").write_bytes(grey_png(labels, bits))
    np.testing.assert_array_equal(read_labels(tmp_path / "m.png"), labels)


def grey_png(labels: np.ndarray, bits: int) -> bytes:
    """A grey PNG of so many bits, which Pillow does not write."""
    rows = b""
    for row in labels:
        text = "".join(f"{value:0{bits}b}" for value in row)
        text += "0" * (-len(text) % 8)
        rows += b"\0" + bytes(int(text[i : i + 8], 2) for i in range(0, len(text), 8))
    return png_file(labels.shape[1], labels.shape[0], bits=bits, colour=GREY, rows=rows)


@pytest.mark.parametrize("most", [1, 20, 254, 255, 1000, 65535])
def test_pgm_of_any_maximum_is_read_as_stored(tmp_path: Path, most: int) -> None:
    labels = np.linspace(0, most, 21).astype(np.uint16).reshape(3, 7)
    data = labels.astype(np.uint8 if most < 256 else ">u2").tobytes()
    (tmp_path / "m.pgm").write_bytes(f"P5\n7 3\n{most}\n".encode() + data)
    np.testing.assert_array_equal(read_labels(tmp_path / "m.pgm"), labels)


def test_ignored_pixels_are_counted() -> None:
    matrix = ConfusionMatrix(2, ignore=IGNORED)
    truth = np.array([[0, 1, IGNORED, IGNORED]], np.uint16)
    matrix.update(truth, np.zeros((1, 4), np.uint8))
    assert matrix.ignored_share == 0.5
    assert (matrix + matrix).ignored == 4
