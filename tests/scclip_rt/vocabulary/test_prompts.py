"""Prompts are resumed where another with the same beginning left off, and the numbers are those of whole prompts."""

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from scclip_rt.backends.base import KnownTokens
from scclip_rt.vocabulary import prompts as module
from scclip_rt.vocabulary.prompts import Prompt, PromptEncoder, encode_whole


def vectors(rows: np.ndarray) -> np.ndarray:
    """A vector of each row's tokens, as a causal tower that pools at the end token makes them."""
    made = [np.random.default_rng(row[row > 0]).standard_normal(8) for row in rows]
    return np.array(made, np.float32)


class Resuming:
    """A text encoder whose keys and values are the tokens themselves; counts what it computes."""

    def __init__(self) -> None:
        self.beginnings = self.tokens = 0
        self.shapes: list[tuple[int, ...]] = []

    def encode(self, tokens: np.ndarray) -> np.ndarray:
        return vectors(tokens)

    def keys_and_values(self, tokens: np.ndarray) -> np.ndarray:
        self.beginnings += len(tokens)
        return np.broadcast_to(
            tokens[None, None, :, None, :, None], (2, 2, len(tokens), 1, tokens.shape[1], 3)
        )

    def resume(self, tokens: np.ndarray, known: KnownTokens, beginnings: np.ndarray) -> np.ndarray:
        self.tokens += int((tokens > 0).sum())
        self.shapes.append(tokens.shape)
        longest = known.values.shape[4]
        whole = np.zeros((len(tokens), longest + tokens.shape[1]), np.int64)
        for row, rest, place in zip(whole, tokens, beginnings, strict=True):
            length = known.lengths[place]
            row[:length] = known.values[1, 0, place, 0, :length, 0]
            row[length : length + len(rest)] = rest
        return vectors(whole)


def make(names: int, templates: int, *, long: int = 0) -> list[Prompt]:
    """Every name in every template: a beginning of its own, a name of one to three tokens, an end."""
    made = []
    for name in range(names):
        for template in range(templates):
            beginning = [90, *[100 + template] * (1 + template % 4 + long)]
            ids = [*beginning, *[300 + name] * (1 + name % 3), 99]
            made.append(Prompt(ids, len(beginning)))
    return made


def whole(rows: list[Prompt]) -> np.ndarray:
    return encode_whole(vectors)(rows)


def test_resumed_prompts_are_the_whole_ones() -> None:
    text, rows = Resuming(), make(5, 9)
    encoder = PromptEncoder(lambda: text)
    assert np.array_equal(encoder(rows), whole(rows))
    assert text.beginnings == 9
    assert text.tokens == sum(len(row.ids) - row.beginning for row in rows)


def test_beginnings_are_computed_once() -> None:
    text = Resuming()
    encoder = PromptEncoder(lambda: text)
    encoder(make(1, 9))
    rows = make(4, 9)
    assert np.array_equal(encoder(rows), whole(rows))
    assert text.beginnings == 9
    encoder(make(1, 11))
    assert text.beginnings == 11


def test_batches_hold_rests_of_like_length() -> None:
    text = Resuming()
    PromptEncoder(lambda: text)(make(9, 40))
    lengths = [length for _, length in text.shapes]
    assert lengths == sorted(lengths)
    assert lengths[0] < lengths[-1]
    assert max(rows for rows, _ in text.shapes) <= module._BATCH


def test_more_beginnings_than_are_kept_are_right_all_the_same() -> None:
    text, rows = Resuming(), make(2, module._BATCH + 30)
    encoder = PromptEncoder(lambda: text)
    for _ in range(3):
        assert np.array_equal(encoder(rows), whole(rows))
    assert encoder._beginnings is not None
    assert encoder._beginnings._known is not None
    assert encoder._beginnings._known.values.shape[2] <= module._BATCH


def test_of_a_long_beginning_only_a_part_is_kept() -> None:
    text, rows = Resuming(), make(2, 3, long=40)
    encoder = PromptEncoder(lambda: text)
    assert np.array_equal(encoder(rows), whole(rows))
    assert encoder._beginnings is not None
    assert encoder._beginnings._known is not None
    assert encoder._beginnings._known.values.shape[4] <= module._LONGEST_BEGINNING


def test_a_prompt_that_is_all_beginning_keeps_its_end() -> None:
    rows = [Prompt([90, 91, 99], 3)]
    assert np.array_equal(PromptEncoder(Resuming)(rows), whole(rows))


def test_the_encoder_is_loaded_once_and_again_after_a_release() -> None:
    opened: list[Resuming] = []
    encoder = PromptEncoder(lambda: opened.append(Resuming()) or opened[-1])
    for _ in range(3):
        encoder(make(1, 3))
    assert len(opened) == 1
    encoder.release()
    rows = make(2, 3)
    assert np.array_equal(encoder(rows), whole(rows))
    assert len(opened) == 2


def test_what_is_called_before_a_batch_can_end_it() -> None:
    calls = []

    def before() -> None:
        calls.append(1)
        if len(calls) == 3:
            raise TimeoutError

    with pytest.raises(TimeoutError):
        PromptEncoder(Resuming)(make(9, 40), before)
    assert len(calls) == 3


def kept_in(file: Path) -> tuple[PromptEncoder, Resuming]:
    text = Resuming()
    encoder = PromptEncoder(lambda: text)
    encoder.kept = file
    return encoder, text


def test_another_run_takes_the_beginnings_from_a_file(tmp_path: Path) -> None:
    first, _ = kept_in(tmp_path / "cache/a.safetensors")
    first(make(1, 9))
    second, text = kept_in(tmp_path / "cache/a.safetensors")
    rows = make(4, 11)
    assert np.array_equal(second(rows), whole(rows))
    assert text.beginnings == 2
    third, text = kept_in(tmp_path / "cache/a.safetensors")
    assert np.array_equal(third(rows), whole(rows))
    assert text.beginnings == 0


def test_a_file_is_written_when_it_gains(tmp_path: Path, monkeypatch) -> None:
    encoder, _ = kept_in(tmp_path / "a.safetensors")
    encoder(make(1, 9))
    written = []
    monkeypatch.setattr("scclip_rt.vocabulary.beginnings._write", lambda *_: written.append(1))
    encoder(make(3, 9))
    assert written == []
    encoder(make(1, 10))
    assert written == [1]


def test_more_beginnings_than_a_file_holds_are_not_written(tmp_path: Path) -> None:
    rows = make(2, module._BATCH + 30)
    for _ in range(2):
        encoder, _ = kept_in(tmp_path / "a.safetensors")
        assert np.array_equal(encoder(rows), whole(rows))
    assert list(tmp_path.iterdir()) == []


def _hashed(data: bytes) -> bytes:
    return hashlib.sha256(data).digest() + data


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"short",
        b"x" * 4000,
        None,
        _hashed(b"\0" * 9),
        _hashed(save({"ids": np.zeros((2, 3), np.int64)})),
    ],
)
def test_a_damaged_file_is_made_again(tmp_path: Path, damage: bytes | None) -> None:
    file = tmp_path / "a.safetensors"
    kept_in(file)[0](make(1, 9))
    sound = file.read_bytes()
    file.write_bytes(sound[:-1] + b"x" if damage is None else damage)
    encoder, text = kept_in(file)
    rows = make(2, 9)
    assert np.array_equal(encoder(rows), whole(rows))
    assert text.beginnings == 9
    assert file.read_bytes() == sound


def test_a_file_that_can_not_be_written_costs_time_alone(tmp_path: Path, caplog) -> None:
    (tmp_path / "not-a-folder").write_text("")
    encoder, _ = kept_in(tmp_path / "not-a-folder/a.safetensors")
    rows = make(2, 9)
    assert np.array_equal(encoder(rows), whole(rows))
    encoder(make(1, 12))
    assert caplog.text.count("beginnings of prompts are not cached") == 1


def test_few_text_encoders_have_a_file(tmp_path: Path) -> None:
    for index in range(6):
        file = tmp_path / f"{index}.safetensors"
        kept_in(file)[0](make(1, 2))
        os.utime(file, (index, index))
    assert len(list(tmp_path.iterdir())) == 4
    assert not (tmp_path / "0.safetensors").exists()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_loads_its_own_encoder() -> None:
    opened: list[int] = []
    encoder = PromptEncoder(lambda: opened.append(os.getpid()) or Resuming())
    encoder(make(1, 3))
    child = os.fork()
    if child == 0:
        encoder(make(1, 3))
        os._exit(0 if opened[-1] == os.getpid() else 1)
    assert os.waitpid(child, 0)[1] == 0
