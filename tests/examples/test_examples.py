"""The examples and the notebook run, and do what they say."""

import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

EXAMPLES = Path(__file__).parents[2] / "examples"
SCENE = EXAMPLES.parent / "scclip_rt/demo/scene.png"

Run = Callable[..., str]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run an example with arguments; return what it printed."""

    def call(name: str, *arguments: str | Path, code: int = 0) -> str:
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        assert left.value.code == code
        return capsys.readouterr().out

    return call


def test_a_folder_is_labelled_and_a_damaged_image_named(run: Run, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    (photos / "more").mkdir(parents=True)
    with Image.open(SCENE) as scene:
        scene.convert("RGB").resize((300, 225)).save(photos / "more/one.jpg")
    (photos / "two.png").write_bytes(b"no image")
    told = run("folder.py", "demo", photos, tmp_path / "out", code=1)
    assert "grass" in told
    assert [path.name for path in sorted((tmp_path / "out").iterdir())] == [
        "one.labels.png",
        "one.overlay.png",
    ]


def test_a_video_is_labelled_frame_by_frame(run: Run, tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    film, labelled = tmp_path / "film.mp4", tmp_path / "labels.mp4"
    with Image.open(SCENE) as scene:
        frame = np.asarray(scene.convert("RGB").resize((300, 226)))
    with av.open(str(film), "w") as container:
        stream = container.add_stream("libx264", rate=5)
        stream.height, stream.width = frame.shape[:2]
        stream.pix_fmt = "yuv420p"
        for _ in range(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    told = run("video.py", "demo", film, "--output", labelled, "--frames", "2")
    assert [line.split(":")[0] for line in told.splitlines()] == ["frame 0", "frame 1"]
    with av.open(str(labelled)) as container:
        assert sum(1 for _ in container.decode(video=0)) == 2


def test_dense_features_serve_two_vocabularies_and_a_similarity_map(run: Run, tmp_path: Path) -> None:
    told = run("dense_features.py", "demo", SCENE, tmp_path, "--point", "50", "60")
    assert told.startswith("features (6, 196, 192) float32\ncoarse {")
    with Image.open(tmp_path / "similarity.png") as picture:
        cosines = np.asarray(picture)
    # The patch that was asked for is like itself more than any other, and lies up to the left in its window.
    assert cosines.max() == 255
    row, column = np.argwhere(cosines >= 254)[0]
    assert row < 112
    assert column < 112
    assert cosines.min() < 128


def test_an_own_checkpoint_becomes_two_bundles(run: Run, tmp_path: Path, micro_checkpoint: Path) -> None:
    told = run("own_checkpoint.py", micro_checkpoint, SCENE, tmp_path, "--classes", "grass; sky")
    assert "scclip, encoder.fp32.onnx: features within" in told
    assert (tmp_path / "maskclip.scclip/bundle.json").exists()
    assert (tmp_path / "scclip.overlay.png").exists()


@pytest.mark.filterwarnings("ignore")  # the kernel's, about its own sockets
def test_the_notebook_runs_and_its_pictures_are_those_kept(tmp_path: Path) -> None:
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    kept = nbformat.read(EXAMPLES / "quickstart.ipynb", as_version=4)
    ran = nbformat.from_dict(kept)
    nbclient.NotebookClient(ran, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()

    def shapes(notebook: Any) -> list[list[str]]:
        cells = [cell.get("outputs", []) for cell in notebook.cells]
        return [sorted({kind for o in outputs for kind in o["data"]} - {"image/jpeg"}) for outputs in cells]

    assert sum("image/png" in kinds for kinds in shapes(ran)) == 4
    assert shapes(ran) == shapes(kept), "run it again and save it"
    assert (EXAMPLES / "quickstart.ipynb").stat().st_size < 500_000
