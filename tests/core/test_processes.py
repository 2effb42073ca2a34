"""What several processes divide comes together again, and what one does for all it does alone."""

from pathlib import Path
from typing import Any

import pytest
import torch

from alignkit import joining, processes
from alignkit.batches import Rollout
from alignkit.checkpoints import RowFile
from alignkit.checkpoints.packing import pack, unpack
from alignkit.errors import EndedElsewhere, Fault, Terminated, UserError
from alignkit.loop.rollouts import join_rollouts, select_rows
from alignkit.loop.state import rollout_state
from alignkit.records import Prompt
from alignkit.training.batching import micro_batches, shared


class Store:
    """What the ranks say to each other, in one process."""

    def __init__(self) -> None:
        self.said: dict[str, str] = {}

    def set(self, key: str, value: str) -> None:
        self.said[key] = value

    def check(self, keys: list[str]) -> bool:
        return all(key in self.said for key in keys)

    def get(self, key: str) -> bytes:
        return self.said[key].encode()

    def add(self, key: str, number: int) -> int:
        self.said[key] = str(int(self.said.get(key, "0")) + number)
        return int(self.said[key])

    def compare_set(self, key: str, expected: str, value: str) -> bytes:
        assert expected == ""
        return self.said.setdefault(key, value).encode()

    def delete_key(self, key: str) -> None:
        del self.said[key]


@pytest.fixture
def as_rank(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes this process one of several."""
    store = Store()

    def become(rank: int, count: int) -> None:
        monkeypatch.setattr(processes, "_group", processes.Group(store, rank, count))

    return become


def parts(batches: list[list[int]], count: int, as_rank: Any) -> list[list[tuple[list[int], bool]]]:
    found = []
    for rank in range(count):
        as_rank(rank, count)
        found.append(list(shared(batches)))
    return found


@pytest.mark.parametrize("count", [1, 2, 3, 8])
@pytest.mark.parametrize("rows", [1, 2, 5, 16, 61])
@pytest.mark.parametrize("max_tokens", [1, 100, 10_000])
def test_micro_batches_are_divided_into_as_many_for_each_and_every_row_counts_once(
    count: int, rows: int, max_tokens: int, as_rank: Any
) -> None:
    lengths = [1 + (7 * i) % 40 for i in range(rows)]
    found = parts(list(micro_batches(lengths, max_tokens)), count, as_rank)
    assert len({len(own) for own in found}) == 1
    counting = [i for own in found for batch, counts in own if counts for i in batch]
    assert sorted(counting) == list(range(rows))
    for own in found:
        for batch, _ in own:
            assert batch
            assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= max_tokens
    idle = sum(not counts for own in found for _, counts in own)
    assert idle == 0 if rows >= count and rows % count == 0 else idle < count


def test_no_rows_are_no_micro_batches(as_rank: Any) -> None:
    assert parts([], 2, as_rank) == [[], []]


def test_the_first_process_works_alone_and_the_others_hear_what_came_of_it(as_rank: Any) -> None:
    as_rank(0, 2)
    assert processes.several()
    seen = []

    def work() -> dict[str, Any]:
        seen.append(processes.several())
        return {"scores": [0.1, float("inf")], "name": "é"}

    said = processes.on_first(work)
    assert seen == [False]
    as_rank(1, 2)
    assert processes.on_first(work) == said
    assert seen == [False]  # not done a second time
    assert processes._group is not None
    assert processes._group.store.said == {}  # the store does not grow


def test_whoever_waits_for_one_that_has_ended_ends_with_its_status(as_rank: Any) -> None:
    as_rank(1, 2)
    assert processes._group is not None
    processes._group.store.set(processes.ENDED, "0 3")
    with pytest.raises(EndedElsewhere) as ended:
        processes.on_first(lambda: None)
    assert ended.value.code == 3


def test_a_fault_says_which_process_it_was_in_and_the_others_say_nothing(
    as_rank: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(joining, "TALK", 0.0)
    monkeypatch.setattr(joining.atexit, "register", lambda work, *given: work(*given))
    as_rank(1, 2)
    fault = Fault("only here", where="somewhere")
    assert joining._agreed_end(fault) is fault
    assert str(fault) == "somewhere: process 1 of 2: only here"
    as_rank(0, 2)
    ended = joining._agreed_end(RuntimeError("the connection was closed by gloo"))
    assert isinstance(ended, EndedElsewhere)
    assert (ended.rank, ended.code) == (1, 4)


def test_a_launcher_s_signal_to_those_that_are_left_is_no_end_of_their_own(
    as_rank: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def signalled(*_: Any) -> bool:
        raise Terminated

    monkeypatch.setattr(joining.atexit, "register", lambda *_: None)
    as_rank(1, 2)
    ended = EndedElsewhere(0, 2)
    monkeypatch.setattr(joining, "_within", signalled)
    assert joining._agreed_end(ended) is ended


def test_a_process_that_cannot_join_says_what_it_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match=r"process \? of 2, and it cannot join"), joining.joined():
        pass


def test_only_the_first_process_writes_rows(as_rank: Any, tmp_path: Path) -> None:
    file = RowFile(tmp_path / "rows.jsonl")
    as_rank(1, 2)
    file.append([{"a": 1}])
    assert not file.path.exists()
    as_rank(0, 2)
    file.append([{"a": 1}])
    assert file.path.read_text() == '{"a": 1}\n'


def rollout() -> Rollout:
    """Five completions of three prompts, of unequal lengths."""
    prompts = [Prompt(id=name, prompt=name) for name in ("a", "b", "a", "c", "b")]
    lengths = [2, 4, 1, 3, 2]
    width = max(lengths)
    mask_BT = torch.arange(width) < torch.tensor(lengths)[:, None]
    return Rollout(
        prompts=tuple(prompts),
        prompt_ids=tuple((n, n + 1) for n in range(5)),
        completion_ids=tuple(tuple(range(n)) for n in lengths),
        texts=tuple(f"text {n}" for n in range(5)),
        finish=("stop", "length", "stop", "stop", "length"),
        group_B=torch.tensor([0, 1, 0, 2, 1]),
        temperature=0.7,
        tokenizer_id="t",
        sampler_logp_BT=torch.randn(5, width) * mask_BT,
        kept_BTK=torch.where(mask_BT[..., None], torch.randint(0, 9, (5, width, 3)), -1),
    )


def test_rollouts_of_parts_are_the_whole_one_again() -> None:
    whole = rollout()
    rows = [[3], [0, 1, 2, 4]]
    joined = join_rollouts([select_rows(whole, own) for own in rows], rows)
    expected, found = rollout_state(whole), rollout_state(joined)
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        same = torch.equal(found[name], value) if isinstance(value, torch.Tensor) else found[name] == value
        assert same, name


def test_a_state_is_the_same_after_its_way_as_bytes() -> None:
    state = {"a": torch.arange(3.0), "b": None, "c": "é", "d": 1, "e": float("nan"), "f": torch.zeros(0)}
    found = unpack(pack(state))
    assert found.keys() == state.keys()
    assert torch.equal(found["a"], state["a"])
    assert found["f"].shape == (0,)
    assert (found["b"], found["c"], found["d"]) == (None, "é", 1)
    assert found["e"] != found["e"]
