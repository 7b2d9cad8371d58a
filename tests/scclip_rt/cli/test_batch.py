"""`scclip batch`: what it prints, its exit codes, and that three kills change nothing."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from scclip_rt import cli
from scclip_rt.batch.ledger import FOLDER
from tiny_bundle import blocks_image


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(4):
        Image.fromarray(blocks_image(60, 80 + i, seed=i)).save(folder / f"{i}.png")
    return folder


def batch(bundle: Path, output: Path, *inputs: object, options: tuple[object, ...] = ()) -> list[str]:
    names = ("--classes", "cat; dog, puppy; sky", "--templates", "none")
    return [
        str(part) for part in ("batch", *inputs, "--bundle", bundle, "--output", output, *names, *options)
    ]


def test_a_folder(
    bundle_path: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = batch(bundle_path, tmp_path / "out", photos, options=("--format", "png", "--shard-size", 3))
    assert cli.run(arguments) == 0
    assert f"4 images in {tmp_path / 'out'}" in capsys.readouterr().out
    assert len(list((tmp_path / "out").glob("*.labels.png"))) == 4
    assert cli.run(arguments) == 2
    assert "2 shards of it done; --resume goes on" in capsys.readouterr().err
    assert cli.run([*arguments, "--resume"]) == 0
    assert "4 images" in (printed := capsys.readouterr().out)
    assert ", 4 of them before" in printed


def test_bad_images_are_counted(
    bundle_path: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "1.png").write_bytes(b"")
    assert cli.run(batch(bundle_path, tmp_path / "out", photos, options=("--format", "webdataset"))) == 0
    printed = capsys.readouterr().out
    assert "1 of them could not be read and are rows with an error, such as" in printed
    assert "1.png: the file is empty" in printed
    for path in photos.iterdir():
        path.write_bytes(b"")
    options = ("--format", "webdataset", "--json")
    assert cli.run(batch(bundle_path, tmp_path / "none", photos, options=options)) == 2
    report = json.loads(capsys.readouterr().out)
    assert (report["images"], report["errors"], len(report["examples"])) == (4, 4, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--address", "auto"), "--address and --gpus-per-actor are for --engine ray"),
        (("--engine", "ray", "--device", "cuda:0,cuda:1"), "is for --engine local"),
        (("--column", "image"), "is for Parquet, Lance and WebDataset input"),
    ],
)
def test_options_that_do_not_fit(
    bundle_path: Path,
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: tuple[str, ...],
    message: str,
) -> None:
    assert cli.run(batch(bundle_path, tmp_path / "out", photos, options=options)) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("option", [("--templates", "none"), ("--text-precision", "int8")])
def test_how_to_embed_names_goes_with_names(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], option: tuple[str, str]
) -> None:
    """The demo bundle carries a vocabulary."""
    arguments = ["batch", str(photos), "--bundle", "demo", "--output", str(tmp_path / "out"), *option]
    assert cli.run([*arguments, "--format", "webdataset"]) == 2
    assert "with --classes: a ready vocabulary is embedded already" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_three_kills_change_nothing(bundle_path: Path, tmp_path: Path) -> None:
    """Real processes, two workers, `kill -9` when one, three and five of twelve shards are done."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(24):
        Image.fromarray(blocks_image(60, 60 + i, seed=i)).save(folder / f"{i:02}.png")
    options = ("--format", "webdataset", "--shard-size", 2, "--actors", 2, "--resume")
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = tmp_path / "killed" / FOLDER / "done"

    def run(output: Path) -> "subprocess.Popen[bytes]":
        command = [
            sys.executable,
            "-m",
            "scclip_rt.cli",
            *batch(bundle_path, output, folder, options=options),
        ]
        return subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    for goal in (1, 3, 5):
        process = run(tmp_path / "killed")
        while process.poll() is None and len(list(done.glob("*.json"))) < goal:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert run(tmp_path / "killed").wait() == 0
    assert cli.run(batch(bundle_path, tmp_path / "whole", folder, options=options)) == 0
    for path in sorted((tmp_path / "whole").glob("*.tar")):
        assert path.read_bytes() == (tmp_path / "killed" / path.name).read_bytes()
    killed = [path.name for path in (tmp_path / "killed").iterdir()]
    assert sorted(killed) == sorted(path.name for path in (tmp_path / "whole").iterdir())
