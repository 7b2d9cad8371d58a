"""`scclip bench`, run for real on small bundles, and what it refuses."""

import json
from pathlib import Path

import pytest

from scclip_rt.bench.plot import check_plot
from scclip_rt.bench.report import STAGES
from scclip_rt.cli import run
from scclip_rt.errors import OptionError


def test_two_bundles_are_gated_timed_compared_and_drawn(
    bundle_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    report, picture = tmp_path / "bench.json", tmp_path / "bench.png"
    arguments = [str(bundle_path), f"{bundle_path}@whole", "--image-size", "96x144", "--queries", "3,7"]
    options = ["--iterations", "2", "--warmup", "1", "--threads", "1", "--stream", "2", "--samples"]
    code = run(["bench", *arguments, *options, f"--json={report}", "--plot", str(picture)])
    text = capsys.readouterr()
    assert code == 0, text.err
    assert "tiny whole" in text.out
    rows = json.loads(report.read_text())["rows"]
    assert [(row["queries"], row["windows"]) for row in rows] == [(3, 6), (3, 1), (7, 6), (7, 1)]
    for row in rows:
        stages = row["samples"]
        assert all(len(stages[stage]) == 2 for stage in STAGES)
        assert all(t >= p + e + d for p, e, d, t in zip(*(stages[s] for s in STAGES), strict=True))
        assert row["gate"]["mean_abs"] == row["gate"]["batch_mean_abs"] == 0
        assert 10e6 < row["peak_bytes"] < 400e6
        assert row["limit_share"] > 0
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing.scclip"], "nothing.scclip: no such bundle"),
        (["{bundle}@int8"], "no window encoder in precision 'int8'"),
        (["{bundle}", "{bundle}"], "is named twice"),
        (["{bundle}", "--queries", "3", "--vocabulary", "x"], "exclude each other"),
        (["{bundle}", "--samples"], "--samples go into --json"),
        (["{bundle}", "--image", "none.jpg"], "can't read the image none.jpg"),
        (["{bundle}", "--vocabulary", "none.safetensors"], "can't use the vocabulary"),
        (["{bundle}", "--plot", "{folder}/picture.txt"], "name a file that ends in .png"),
        (["{bundle}", "--plot", "{folder}/there.png"], "pass --force to replace it"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(
    arguments: list[str],
    message: str,
    bundle_path: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "there.png").touch()
    filled = [argument.format(bundle=bundle_path, folder=tmp_path) for argument in arguments]
    assert run(["bench", *filled]) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1
    assert message in error[0]
    assert [path.name for path in tmp_path.iterdir()] == ["there.png"]


def test_without_matplotlib_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(OptionError, match=r"pip install '\.\[bench\]'"):
        check_plot(Path("x.png"))
