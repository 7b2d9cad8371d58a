"""Class lists, vocabulary files and their making: right or refused with a reason."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from scclip_export.checkpoint.tokenizer import tokenizer_json
from scclip_rt.errors import OutputError, VocabularyError
from scclip_rt.vocabulary import embedding
from scclip_rt.vocabulary.classes import find_background, parse_classes, shorten
from scclip_rt.vocabulary.embedding import embed_classes
from scclip_rt.vocabulary.file import Vocabulary, load_vocabulary, save_vocabulary
from scclip_rt.vocabulary.prompts import encode_whole
from scclip_rt.vocabulary.templates import Templates, load_templates
from scclip_rt.vocabulary.tokenizer import Tokenizer

SHA = "ab" * 32


def vocabulary(number: int = 3, **changes: object) -> Vocabulary:
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((number, 8)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    names = tuple(f"class {i}" for i in range(number))
    values = {
        "embeddings": rows,
        "classes": names,
        "queries": names,
        "query_class": np.arange(number),
        "background": None,
        "templates": "imagenet",
        "text_model_sha256": SHA,
    }
    return Vocabulary(**(values | changes))


# Class lists


def test_a_file_has_a_line_per_class_and_synonyms_after_commas(tmp_path):
    path = tmp_path / "classes.txt"
    path.write_text("\ufeff# animals\ncat\n\n dog,puppy , hound \r\ntraffic light,\n", encoding="utf-8")
    expected = (("cat",), ("dog", "puppy", "hound"), ("traffic light",))
    assert parse_classes(path) == expected


def test_strings_and_lists():
    expected = (("cat",), ("dog", "puppy"))
    assert parse_classes("cat; dog, puppy") == expected
    assert parse_classes("cat;dog,puppy;") == expected
    assert parse_classes(["cat", "dog, puppy"]) == expected
    assert parse_classes([["cat"], ["dog", "puppy"]]) == expected
    assert parse_classes("cat") == (("cat",),)
    assert parse_classes(["rock, stone, Rock"]) == (("rock", "stone"),)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("", "no classes"),
        (" ; ;", "no classes"),
        ([], "no classes"),
        ("cat; dog; Cat", r"'Cat' is in two classes: class 1 and class 3"),
        ("cat, kitten; dog; KITTEN", r"'KITTEN'.*class 1 and class 3"),
        ("cat; , dog", "class 2 has an empty name"),
        ([["cat"], []], "class 2 has an empty name"),
        (["cat", ""], "class 2 has an empty name"),
        ([["cat", 3]], "must be strings"),
        ("clases.txt", "look like a file"),
        ("/etc/passwd", "look like a file"),
        (Path("missing/classes"), "can't read the class list"),
        ("cat; " + "x" * 900 + "; " + "x" * 900, r"'x+…' is in two classes"),
        ("cat; " + "x" * 20_000, r"class 2: the class name 'x+…' is too long: 20,000 characters"),
    ],
)
def test_unsound_class_lists_are_refused(source, message):
    with pytest.raises(VocabularyError, match=message) as caught:
        parse_classes(source)
    assert len(str(caught.value)) < 400


def test_files_name_the_lines(tmp_path):
    path = tmp_path / "c.txt"
    path.write_text("cat\n\ndog\ncat\n")
    with pytest.raises(VocabularyError, match=r"line 1 of .*c\.txt and line 4 of"):
        parse_classes(path)
    path.write_bytes(b"\x89PNG\r\n\x1a\n\xff")
    with pytest.raises(VocabularyError, match="not UTF-8"):
        parse_classes(path)
    path.write_text("# only a comment\n")
    with pytest.raises(VocabularyError, match=r"no classes in the class list .*c\.txt"):
        parse_classes(path)
    with pytest.raises(VocabularyError, match="can't read"):
        parse_classes(tmp_path)


def test_background_is_found_or_refused():
    names = ["sky", "Background", "other"]
    assert find_background(names) == 1
    assert find_background(names, "none") is None
    assert find_background(names, "other") == 2
    assert find_background(["sky"]) is None
    with pytest.raises(VocabularyError, match="did you mean 'other'"):
        find_background(names, "othr")


def test_shortened_names_fit():
    assert shorten("x" * 40) == "x" * 40
    assert len(shorten("x" * 41)) == 40


# Vocabularies and their files


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"embeddings": np.ones((3, 8), np.float32)}, "unit vectors"),
        ({"embeddings": np.full((3, 8), np.nan, np.float32)}, "unit vectors"),
        ({"embeddings": np.ones((3, 8))}, "float32"),
        ({"embeddings": np.zeros((0, 8), np.float32)}, "not empty"),
        ({"queries": ("a", "b")}, "2 queries"),
        ({"query_class": np.array([0, 1, 3])}, "3 classes"),
        ({"query_class": np.array([0, 1, 1])}, "3 classes"),
        ({"query_class": np.array([0, 1, 2], np.int32)}, "int64"),
        ({"background": 3}, "background"),
        ({"classes": ("a", "a", "b")}, "same name"),
    ],
)
def test_parts_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(VocabularyError, match=message):
        vocabulary(**changes)


def test_another_model_is_refused():
    vocabulary().check_model(SHA, embed_dim=8)
    with pytest.raises(VocabularyError, match=r"mine\.safetensors was made by text model abab.*scclip embed"):
        vocabulary().check_model("cd" * 32, name="mine.safetensors")
    with pytest.raises(VocabularyError, match="width 8"):
        vocabulary().check_model(SHA, embed_dim=512)


@pytest.mark.parametrize("number", [1, 10_000])
def test_files_round_trip(tmp_path, number):
    path = tmp_path / "v.safetensors"
    before = vocabulary(number, background=0, classes=tuple(f"名前, {i}" for i in range(number)))
    save_vocabulary(before, path)
    after = load_vocabulary(path)
    for name in ("classes", "queries", "background", "templates", "text_model_sha256"):
        assert getattr(after, name) == getattr(before, name)
    assert np.array_equal(after.embeddings, before.embeddings)
    assert np.array_equal(after.query_class, before.query_class)
    with pytest.raises(OutputError, match="--force"):
        save_vocabulary(before, path)
    save_vocabulary(before, path, force=True)


def damaged(path: Path, *, tensors: dict[str, np.ndarray] | None = None, **metadata: str | None) -> None:
    good = vocabulary()
    entries = {
        "format": "scclip-vocabulary/1",
        "classes": json.dumps(good.classes),
        "queries": json.dumps(good.queries),
        "query_class": "[0, 1, 2]",
        "background": "null",
        "templates": "imagenet",
        "text_model_sha256": SHA,
    } | metadata
    kept = {key: value for key, value in entries.items() if value is not None}
    save_file(tensors or {"embeddings": good.embeddings}, path, metadata=kept)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "scclip-vocabulary/2"}, "its format is 'scclip-vocabulary/2'"),
        ({"format": None}, "its format is 'none'"),
        ({"classes": None}, "lacks 'classes'"),
        ({"classes": "{"}, "'classes' is not JSON"),
        ({"classes": "[1, 2, 3]"}, "list of strings"),
        ({"query_class": "[0, 1, 2.5]"}, "list of class indices"),
        ({"query_class": "[0, 1, -1]"}, "list of class indices"),
        ({"query_class": "[0, 1, 99999999999999999999]"}, "list of class indices"),
        ({"background": "true"}, "neither a class index nor null"),
        ({"background": "7"}, "background is class 7 of 3"),
        ({"tensors": {"weights": np.eye(3, dtype=np.float32)}}, "one tensor"),
        ({"tensors": {"embeddings": np.eye(3)}}, "float32"),
    ],
)
def test_damaged_files_are_refused_and_named(tmp_path, changes, message):
    path = tmp_path / "v.safetensors"
    damaged(path, **changes)
    with pytest.raises(VocabularyError, match=message) as caught:
        load_vocabulary(path)
    assert "v.safetensors" in str(caught.value)


def test_files_that_are_no_vocabularies_are_refused(tmp_path):
    path = tmp_path / "v.safetensors"
    with pytest.raises(VocabularyError, match="no such file"):
        load_vocabulary(path)
    for data in (b"", b"hello", b"\xff" * 100):
        path.write_bytes(data)
        with pytest.raises(VocabularyError, match="damaged"):
            load_vocabulary(path)
    save_vocabulary(vocabulary(), path, force=True)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(VocabularyError, match="damaged"):
        load_vocabulary(path)


# Embedding


class FakeEncoder:
    """Unit vectors that depend on the tokens alone, as a causal text encoder's do; counts its work."""

    def __init__(self) -> None:
        self.rows = 0
        self.shapes: list[tuple[int, int]] = []

    def __call__(self, tokens: np.ndarray) -> np.ndarray:
        assert tokens.dtype == np.int64
        self.rows += len(tokens)
        self.shapes.append(tokens.shape)
        out = [np.random.default_rng(row[row > 0]).standard_normal(8) for row in tokens]
        return np.array([row / np.linalg.norm(row) for row in out], np.float32)


TOKENIZER = Tokenizer.from_json(tokenizer_json())
CLASSES = parse_classes("background; cat, kitten; a very long class name indeed; dog")
TEMPLATES = load_templates("imagenet")


def embed(encoder, classes=CLASSES, templates=TEMPLATES, *, batch=64, sha=SHA, **options):
    encode = encode_whole(encoder, batch=batch)
    return embed_classes(classes, encode, TOKENIZER, templates, model_sha256=sha, **options)


def test_each_name_is_the_mean_of_its_prompts():
    encoder = FakeEncoder()
    result = embed(encoder, batch=7)
    assert result.classes == ("background", "cat", "a very long class name indeed", "dog")
    assert result.queries[1:3] == ("cat", "kitten")
    assert result.query_class.tolist() == [0, 1, 1, 2, 3]
    assert result.background == 0
    for row, name in zip(result.embeddings, result.queries, strict=True):
        vectors = [FakeEncoder()(np.array(TOKENIZER.encode([prompt])))[0] for prompt in TEMPLATES(name)]
        mean = np.mean(vectors, axis=0)
        assert np.allclose(row, mean / np.linalg.norm(mean), atol=1e-6)


def test_batches_hold_prompts_of_like_length():
    encoder = FakeEncoder()
    embed(encoder, batch=20)
    assert all(rows <= 20 for rows, _ in encoder.shapes)
    lengths = [length for _, length in encoder.shapes]
    assert lengths == sorted(lengths)
    assert lengths[0] < lengths[-1]


def test_names_are_cached_by_content(tmp_path):
    first = FakeEncoder()
    before = embed(first, cache_dir=tmp_path)
    again = FakeEncoder()
    after = embed(again, cache_dir=tmp_path)
    assert (first.rows, again.rows) == (400, 0)
    assert np.array_equal(before.embeddings, after.embeddings)
    one_more = FakeEncoder()
    embed(one_more, parse_classes("cat; bird"), cache_dir=tmp_path)
    assert one_more.rows == 80
    other = FakeEncoder()
    embed(other, sha="cd" * 32, cache_dir=tmp_path)
    assert other.rows == 400
    templates = FakeEncoder()
    embed(templates, templates=load_templates("none"), cache_dir=tmp_path)
    assert templates.rows == 5


@pytest.mark.parametrize("damage", [b"", b"garbage", None])
def test_damaged_cache_entries_are_made_again(tmp_path, damage):
    embed(FakeEncoder(), cache_dir=tmp_path)
    files = sorted(tmp_path.rglob("*.row"))
    assert len(files) == 5
    content = bytearray(files[0].read_bytes())
    content[-1] ^= 1
    files[0].write_bytes(bytes(content) if damage is None else damage)
    encoder = FakeEncoder()
    embed(encoder, cache_dir=tmp_path)
    assert encoder.rows == 80
    encoder = FakeEncoder()
    embed(encoder, cache_dir=tmp_path)
    assert encoder.rows == 0


def test_interrupted_work_goes_on_where_it_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr("scclip_rt.vocabulary.embedding.GROUP_PROMPTS", 80)

    class Interrupted(FakeEncoder):
        def __call__(self, tokens: np.ndarray) -> np.ndarray:
            if self.rows >= 160:
                raise KeyboardInterrupt
            return super().__call__(tokens)

    with pytest.raises(KeyboardInterrupt):
        embed(Interrupted(), cache_dir=tmp_path, batch=80)
    rest = FakeEncoder()
    result = embed(rest, cache_dir=tmp_path, batch=80)
    assert rest.rows == 240
    assert np.allclose(result.embeddings, embed(FakeEncoder()).embeddings, atol=1e-6)


def test_a_cache_that_can_not_be_written_costs_only_time(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    assert len(embed(FakeEncoder(), cache_dir=tmp_path / "file")) == 4
    assert "not cached" in caplog.text


def test_long_and_empty_names_are_refused_before_any_work():
    encoder = FakeEncoder()
    with pytest.raises(VocabularyError, match=r"'word word .*…' is too long: \d+ tokens.*takes 77") as caught:
        embed(encoder, parse_classes(["cat", "word " * 150]))
    assert len(str(caught.value)) < 300
    with pytest.raises(VocabularyError, match="nothing that CLIP's tokenizer knows"):
        embed(encoder, (("&nbsp;",),))
    assert encoder.rows == 0


def test_an_unsound_encoder_is_reported():
    def broken(tokens: np.ndarray) -> np.ndarray:
        return np.full((len(tokens), 8), np.nan, np.float32)

    with pytest.raises(VocabularyError, match="NaN"):
        embed(broken)


def test_progress_goes_to_standard_error(capsys):
    embed(FakeEncoder(), progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert "embedding names" in err
    embed(FakeEncoder(), templates=Templates(name="x", patterns=("{}",)))
    assert capsys.readouterr().err == ""


def test_the_rows_longest_not_used_leave_a_full_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(embedding, "_ROWS_PER_FOLDER", 2)
    templates = load_templates("none")
    monkeypatch.setattr(embedding._Cache, "_path", lambda _, directory, name: directory / f"{name}.row")
    for age, name in enumerate(("cat", "dog", "bird")):
        embed(FakeEncoder(), parse_classes([name, "sky"]), templates, cache_dir=tmp_path)
        for path in tmp_path.glob("*.row"):
            os.utime(path, (0, 1000 * (name == path.stem) + age))
    embed(FakeEncoder(), parse_classes(["bird", "tree"]), templates, cache_dir=tmp_path)  # bird is used again
    left = {path.stem for path in tmp_path.glob("*.row")}
    assert left == {"bird", "tree"}
    again = FakeEncoder()
    embed(again, parse_classes(["bird", "tree"]), templates, cache_dir=tmp_path)
    assert again.rows == 0
