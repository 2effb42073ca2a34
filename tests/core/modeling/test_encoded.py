"""Token ids that were kept are the ids that encoding gives, or they are made again."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alignkit.data.store import RecordFile, write_records
from alignkit.files import atomic_folder
from alignkit.modeling import encoded
from alignkit.modeling.encoded import FOLDER, EncodedRecords, encode_records
from alignkit.modeling.encoding import TextEncoder
from alignkit.records import Demonstration
from alignkit.testing.tiny import tiny_tokenizer

TEXTS = [Demonstration(prompt=f"the film {n}", completion=f" is number {n * n}") for n in range(30)]


@pytest.fixture(autouse=True)
def _small_files_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoded, "LEAST", 0)


class Counted:
    """Encodes, and counts how often."""

    def __init__(self, encode: Callable[[Demonstration], Sequence[Sequence[int]]]) -> None:
        self.encode, self.calls = encode, 0

    def __call__(self, record: Demonstration) -> Sequence[Sequence[int]]:
        self.calls += 1
        return self.encode(record)


def letters(record: Demonstration) -> list[list[int]]:
    return [[ord(c) for c in str(record.prompt)], [ord(c) for c in str(record.completion)]]


def pieces(found: EncodedRecords) -> list[list[int]]:
    return [found.ids[a:b].tolist() for a, b in zip(found.starts[:-1], found.starts[1:], strict=True)]


def made(records: Any, folder: Path | None, identity: str | None = "a", encode: Any = letters) -> tuple[Any, int]:
    counted = Counted(encode)
    return pieces(encode_records(records, counted, 2, identity, folder)), counted.calls


@pytest.fixture
def records(tmp_path: Path) -> "RecordFile[Demonstration]":
    write_records(tmp_path / "d.jsonl", TEXTS)
    return RecordFile(tmp_path / "d.jsonl", Demonstration)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.lists(st.integers(0, 2**31 - 1)), st.lists(st.integers(0, 9)))))
def test_what_comes_back_is_what_was_encoded(ids: list[tuple[list[int], list[int]]]) -> None:
    with TemporaryDirectory() as name:
        path = Path(name) / "d.jsonl"
        write_records(path, [Demonstration(prompt=str(n), completion="") for n in range(len(ids))])
        file = RecordFile(path, Demonstration)
        wanted = [piece for pair in ids for piece in pair]
        for calls in (len(ids), 0):
            assert made(file, Path(name), encode=lambda r: ids[int(str(r.prompt))]) == (wanted, calls)


def test_it_is_encoded_anew_when_anything_is_another(
    records: "RecordFile[Demonstration]", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = [piece for record in TEXTS for piece in letters(record)]
    assert made(records, tmp_path) == (wanted, len(TEXTS))
    assert made(records, tmp_path) == (wanted, 0)
    assert made(records, tmp_path, identity="b")[1] == len(TEXTS)
    assert made(records, tmp_path, identity=None)[1] == len(TEXTS)
    assert made(records, None)[1] == len(TEXTS)
    assert made(list(records), tmp_path)[1] == len(TEXTS)
    write_records(tmp_path / "d.jsonl", TEXTS[15:] + TEXTS[:15])
    assert made(RecordFile(tmp_path / "d.jsonl", Demonstration), tmp_path) == (wanted[30:] + wanted[:30], len(TEXTS))
    monkeypatch.setattr(encoded, "LEAST", 10**6)
    assert made(records, tmp_path)[1] == len(TEXTS)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [flip, Path.unlink, lambda path: path.write_bytes(b"")])
@pytest.mark.parametrize("name", ["state.safetensors", "checksums.json"])
def test_what_is_damaged_is_said_and_made_again(
    damage: Callable[[Path], Any],
    name: str,
    records: "RecordFile[Demonstration]",
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    whole, _ = made(records, tmp_path)
    (folder,) = (tmp_path / FOLDER).iterdir()
    if (damage, name) == (flip, "checksums.json"):
        pytest.skip("its last byte is a line end, which means nothing")
    damage(folder / name)
    with caplog.at_level(logging.WARNING, "alignkit"):
        assert made(records, tmp_path) == (whole, len(TEXTS))
    assert "are damaged" in caplog.text
    assert made(records, tmp_path) == (whole, 0)


def test_only_so_many_are_kept_and_those_in_use_stay(
    records: "RecordFile[Demonstration]", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoded, "KEPT", 2)
    for identity in ("a", "b", "a", "c"):
        made(records, tmp_path, identity=identity)
    assert [made(records, tmp_path, identity=identity)[1] for identity in ("a", "c")] == [0, 0]
    assert made(records, tmp_path, identity="b")[1] == len(TEXTS)
    assert len(list((tmp_path / FOLDER).iterdir())) == 2


def test_a_full_disk_costs_no_more_than_the_time(
    records: "RecordFile[Demonstration]",
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def full(path: Path) -> Any:
        raise OSError(28, "No space left on device")

    whole, _ = made(records, None)
    monkeypatch.setattr(encoded, "atomic_folder", full)
    assert made(records, tmp_path) == (whole, len(TEXTS))
    assert "not kept for the next time" in caplog.text
    monkeypatch.setattr(encoded, "atomic_folder", atomic_folder)
    assert made(records, tmp_path) == (whole, len(TEXTS))


def test_tokenizers_that_encode_otherwise_have_another_identity() -> None:
    def encoder(tokenizer: Any, *stops: int) -> TextEncoder:
        return TextEncoder(tokenizer, frozenset(stops), "x")

    def without_merges() -> Any:
        """The same vocabulary, and other ids for the same text."""
        from tokenizers import Tokenizer, models

        tokenizer = tiny_tokenizer()
        same = tokenizer.backend_tokenizer
        bare = Tokenizer(models.BPE(vocab=same.get_vocab(with_added_tokens=False), merges=[]))
        bare.pre_tokenizer, bare.decoder = same.pre_tokenizer, same.decoder
        tokenizer._tokenizer = bare
        return tokenizer

    plain, other = encoder(tiny_tokenizer()), encoder(without_merges())
    assert plain.text("the quiet film") != other.text("the quiet film")
    assert plain.identity == encoder(tiny_tokenizer()).identity is not None
    found = [plain, other, encoder(tiny_tokenizer(chat=True)), encoder(tiny_tokenizer(), 7)]
    assert len({one.identity for one in found}) == len(found)
