"""What was acknowledged is there, once; nobody is asked too much, and no task has more answers than it wants."""

import multiprocessing
import os
import random
import signal
import sqlite3
import threading
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from alignkit.annotation import AnnotationStore, Refused, guidelines_version
from alignkit.annotation.queries import FREE_TASK, HELD_TASK
from alignkit.errors import UserError
from alignkit.records import Annotator, Candidate, Instructions, Judgement, Pairwise, Rating, Sampling, Task

pytestmark = pytest.mark.concurrent


def make_task(id: str = "t0", overlap: int = 1, prompt: str = "why?") -> Task:
    candidates = tuple(
        Candidate(
            id=f"{id}-{name}",
            prompt_id=id,
            prompt=prompt,
            completion=f"because {name}",
            policy_revision="r",
            sampling=Sampling(),
            seed=0,
            prompt_ids=(1,),
            completion_ids=(2,),
            finish_reason="stop",
        )
        for name in "ab"
    )
    return Task(id=id, prompt=prompt, candidates=candidates, overlap=overlap)


def answer(task: Task, who: str, id: str, p_a: float = 1.0, **more: Any) -> Judgement:
    a, b = (candidate.id for candidate in task.candidates)
    fields: dict[str, Any] = {"payload": Pairwise(a=a, b=b, p_a=p_a), "presented_order": (b, a), **more}
    return Judgement(id=id, task_id=task.id, annotator=Annotator(id=who, kind="human"), **fields)


def skip(task: Task, who: str, id: str, status: str = "skipped", **more: Any) -> Judgement:
    return answer(task, who, id, payload=None, status=status, **more)


@pytest.fixture
def store(tmp_path: Path) -> AnnotationStore:
    return AnnotationStore(tmp_path / "labels.sqlite")


class TestTasks:
    def test_come_in_order_and_each_once(self, store: AnnotationStore) -> None:
        tasks = [make_task(f"t{n}") for n in range(3)]
        assert store.publish("round 1", "pairwise", tasks) == 3
        assert store.publish("round 1", "pairwise", [*tasks, make_task("t3")]) == 1
        assert [task.id for task in store.tasks("round 1")] == ["t0", "t1", "t2", "t3"]
        assert store.collections() == {"round 1": 4}
        for n in range(4):
            found = store.next_task("eva")
            assert found == (make_task(f"t{n}"), "pairwise")
            store.submit(answer(found[0], "eva", f"j{n}"))
        assert store.next_task("eva") is None

    def test_another_task_under_the_same_id_is_an_error_and_changes_nothing(self, store: AnnotationStore) -> None:
        store.publish("one", "pairwise", [make_task("t0")])
        for again in (
            [make_task("t9"), make_task("t0", prompt="else?")],
            [make_task("t9"), make_task("t9", overlap=2)],
        ):
            with pytest.raises(UserError, match=r"'t[09]'"):
                store.publish("one", "pairwise", again)
        with pytest.raises(UserError, match="in 'one'"):
            store.publish("two", "pairwise", [make_task("t0")])
        assert [task.id for task in store.tasks()] == ["t0"]

    def test_a_lease_keeps_others_away_until_it_ends(self, store: AnnotationStore) -> None:
        store.publish("one", "pairwise", [make_task("t0"), make_task("t1")])
        first = store.next_task("eva", now=0, lease_seconds=10)
        assert first is not None
        assert store.next_task("eva", now=5, lease_seconds=10) == first  # hers until she answers
        second = store.next_task("ben", now=5, lease_seconds=10)
        assert second is not None
        assert second[0].id == "t1"
        assert store.next_task("zoe", now=6) is None
        assert store.heartbeat("eva", "t0", now=14, lease_seconds=10)
        assert store.next_task("zoe", now=16) is not None  # ben's ran out
        assert not store.heartbeat("ben", "t1", now=17)
        store.release("zoe", "t1")
        assert store.heartbeat("ben", "t1", now=17)

    def test_overlap_is_how_many_people_answer(self, store: AnnotationStore) -> None:
        task = make_task(overlap=2)
        store.publish("one", "pairwise", [task])
        for who in ("eva", "ben"):
            assert store.next_task(who) is not None
        assert store.next_task("zoe") is None
        store.submit(answer(task, "eva", "1"))
        assert store.next_task("zoe") is None
        store.submit(skip(task, "ben", "2"))  # skipped: somebody else's turn
        assert store.next_task("ben") is None
        assert store.next_task("zoe") is not None
        store.submit(skip(task, "zoe", "3", status="flagged"))  # flagged: answered
        assert store.next_task("amy") is None
        assert store.progress("one") == (1, 1, 2, 0)
        assert store.progress("one", "eva").mine == 1


class TestSubmitting:
    def test_the_same_judgement_again_is_acknowledged_and_stored_once(self, store: AnnotationStore) -> None:
        task = make_task()
        store.publish("one", "pairwise", [task])
        assert store.submit(answer(task, "eva", "1"))
        assert not store.submit(answer(task, "eva", "1"))
        with pytest.raises(Refused, match="another judgement has the id '1'"):
            store.submit(answer(task, "eva", "1", p_a=0.0))
        assert store.judgements() == [answer(task, "eva", "1")]

    def test_a_change_supersedes_and_nothing_is_forgotten(self, store: AnnotationStore) -> None:
        task = make_task()
        store.publish("one", "pairwise", [task])
        first, second = answer(task, "eva", "1"), answer(task, "eva", "2", p_a=0.0, supersedes="1")
        store.submit(first)
        store.submit(second)
        assert store.judgements() == [second]
        assert store.judgements(superseded=True) == [first, second]

    def test_undone_means_asked_again(self, store: AnnotationStore) -> None:
        task = make_task()
        store.publish("one", "pairwise", [task])
        store.submit(answer(task, "eva", "1"))
        store.submit(skip(task, "eva", "2", supersedes="1"))
        assert store.progress("one").answers == 0
        assert store.next_task("eva") is not None
        store.submit(answer(task, "eva", "3", supersedes="2"))
        assert store.progress("one").complete == 1

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"task_id": "t9"}, "no task 't9'"),
            ({"payload": Pairwise(a="t0-a", b="x", p_a=1.0)}, "candidate 'x' is not in task"),
            ({"presented_order": ("y",)}, "candidate 'y' is not in task"),
            ({"payload": Rating(candidate="t0-a", value=3.0)}, "asks for a pairwise, not a rating"),
            ({"supersedes": "nothing"}, "'nothing' is not the newest answer"),
        ],
    )
    def test_what_cannot_be_is_refused(self, store: AnnotationStore, change: dict[str, Any], message: str) -> None:
        store.publish("one", "pairwise", [make_task()])
        good = answer(make_task(), "eva", "1")
        with pytest.raises(Refused, match=message):
            store.submit(good.model_copy(update=change))
        assert store.judgements() == []

    def test_a_second_answer_must_supersede_the_first(self, store: AnnotationStore) -> None:
        task = make_task(overlap=3)
        store.publish("one", "pairwise", [task])
        store.submit(answer(task, "eva", "1"))
        store.submit(answer(task, "eva", "2", supersedes="1"))
        for supersedes in (None, "1"):
            with pytest.raises(Refused):
                store.submit(answer(task, "eva", "3", supersedes=supersedes))

    def test_whoever_comes_back_too_late_is_refused(self, store: AnnotationStore) -> None:
        task = make_task()
        store.publish("one", "pairwise", [task])
        store.next_task("eva", now=0, lease_seconds=10)
        store.next_task("ben", now=20, lease_seconds=10)
        with pytest.raises(Refused, match="has all its answers"):
            store.submit(answer(task, "eva", "1"), now=21)
        store.submit(answer(task, "ben", "2"), now=22)
        with pytest.raises(Refused, match="has all its answers"):
            store.submit(answer(task, "eva", "1"), now=100)

    def test_the_file_itself_refuses_changes(self, store: AnnotationStore) -> None:
        task = make_task()
        store.publish("one", "pairwise", [task])
        store.submit(answer(task, "eva", "1"))
        with sqlite3.connect(store.path) as connection:
            for statement in ("DELETE FROM judgements", "UPDATE judgements SET record = ''"):
                with pytest.raises(sqlite3.IntegrityError, match="append-only"):
                    connection.execute(statement)


class TestSnapshots:
    def test_are_named_by_what_they_hold_and_stay(self, store: AnnotationStore) -> None:
        tasks = [make_task(f"t{n}") for n in range(2)]
        store.publish("one", "pairwise", tasks)
        store.submit(answer(tasks[0], "eva", "1"))
        first = store.snapshot("one")
        assert store.snapshot("one") == first
        store.submit(answer(tasks[0], "eva", "2", p_a=0.0, supersedes="1"))
        store.submit(answer(tasks[1], "eva", "3"))
        second = store.snapshot("one")
        assert second.hash != first.hash
        assert [judgement.id for judgement in second.judgements] == ["2", "3"]
        assert store.load_snapshot(first.hash) == first
        with pytest.raises(UserError, match="no snapshot"):
            store.load_snapshot("0" * 64)

    def test_the_same_judgements_elsewhere_have_the_same_name(self, store: AnnotationStore, tmp_path: Path) -> None:
        other = AnnotationStore(tmp_path / "other.sqlite")
        tasks = [make_task(f"t{n}") for n in range(2)]
        for place, order in ((store, (0, 1)), (other, (1, 0))):
            place.publish("one", "pairwise", tasks)
            for n in order:
                place.submit(answer(tasks[n], "eva", f"j{n}"))
        assert store.snapshot().hash == other.snapshot().hash


class TestTheFile:
    def test_survives_closing(self, store: AnnotationStore) -> None:
        task = make_task()
        store.publish("one", "pairwise", [task])
        store.submit(answer(task, "eva", "1"))
        store.close()
        again = AnnotationStore(store.path, create=False)
        assert again.judgements() == [answer(task, "eva", "1")]

    def test_anything_else_is_an_error(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="no annotation store"):
            AnnotationStore(tmp_path / "none.sqlite", create=False)
        with pytest.raises(UserError, match="folder does not exist"):
            AnnotationStore(tmp_path / "no" / "labels.sqlite")
        (tmp_path / "text").write_text("something else, and long enough to be no database\n" * 50, encoding="utf-8")
        with pytest.raises(UserError, match="not an annotation store"):
            AnnotationStore(tmp_path / "text")
        with sqlite3.connect(tmp_path / "other.sqlite") as connection:
            connection.execute("CREATE TABLE films (title TEXT)")
        with pytest.raises(UserError, match="something else"):
            AnnotationStore(tmp_path / "other.sqlite")
        with sqlite3.connect(tmp_path / "new.sqlite") as connection:
            connection.execute("PRAGMA user_version=99")
        with pytest.raises(UserError, match="newer release"):
            AnnotationStore(tmp_path / "new.sqlite")


def label(path: Path, who: str, acknowledged: Any, seed: int) -> None:
    """Answer whatever comes, some of it twice, and say what the store confirmed."""
    store, rng = AnnotationStore(path), random.Random(seed)
    n = 0
    while (found := store.next_task(who)) is not None:
        judgement = answer(found[0], who, f"{who}-{seed}-{n}")
        n += 1
        for _ in range(rng.choice((1, 1, 2))):
            store.submit(judgement)
        acknowledged.append(judgement.id)


def test_many_at_once_never_exceed_the_overlap(store: AnnotationStore) -> None:
    store.publish("one", "pairwise", [make_task(f"t{n}", overlap=2) for n in range(30)])
    acknowledged: list[str] = []
    threads = [threading.Thread(target=label, args=(store.path, f"p{k}", acknowledged, k)) for k in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = store.judgements()
    assert sorted(judgement.id for judgement in found) == sorted(acknowledged)
    assert len(found) == 60
    per_task = {task.id: {j.annotator.id for j in found if j.task_id == task.id} for task in store.tasks()}
    assert all(len(people) == 2 for people in per_task.values())


def write_and_tell(path: Path, pipe: Any) -> None:
    store = AnnotationStore(path)
    for n in range(10_000):
        task = store.tasks()[0]
        supersedes = f"j{n - 1}" if n else None
        store.submit(answer(task, "eva", f"j{n}", supersedes=supersedes))
        os.write(pipe, f"j{n}\n".encode())


def test_a_killed_process_loses_nothing_that_was_acknowledged(store: AnnotationStore) -> None:
    store.publish("one", "pairwise", [make_task()])
    store.close()
    reader, writer = os.pipe()
    process = multiprocessing.get_context("fork").Process(target=write_and_tell, args=(store.path, writer))
    process.start()
    os.close(writer)
    with os.fdopen(reader, encoding="utf-8") as lines:
        acknowledged = [lines.readline().strip() for _ in range(100)]
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        acknowledged += [line.strip() for line in lines if line.endswith("\n")]
    assert acknowledged[:2] == ["j0", "j1"]
    kept = {judgement.id for judgement in AnnotationStore(store.path).judgements(superseded=True)}
    assert set(acknowledged) <= kept


class TestStanding:
    def test_a_skip_after_an_undo_is_a_skip(self, store: AnnotationStore) -> None:
        task = make_task()
        store.publish("one", "pairwise", [task])
        store.submit(answer(task, "eva", "1"))
        store.submit(skip(task, "eva", "2", supersedes="1"))
        found = store.standing("eva", "t0")
        assert found is not None
        assert (found.judgement.id, found.undone) == ("2", True)
        assert store.next_task("ben") is None  # it waits for her who took her answer back
        store.submit(skip(task, "eva", "3", supersedes="2"))
        assert store.next_task("eva") is None
        assert store.next_task("ben") is not None
        assert store.standing("ben", "t0") is None

    def test_a_late_heartbeat_does_not_take_an_answered_task_back(self, store: AnnotationStore) -> None:
        tasks = [make_task(f"t{n}", overlap=2) for n in range(2)]
        store.publish("one", "pairwise", tasks)
        store.next_task("eva")
        store.submit(answer(tasks[0], "eva", "1"))
        assert not store.heartbeat("eva", "t0")
        found = store.next_task("eva")
        assert found is not None
        assert found[0].id == "t1"
        assert not store.heartbeat("eva", "nothing")

    def test_history_and_what_an_undo_takes_back(self, store: AnnotationStore) -> None:
        tasks = [make_task(f"t{n}") for n in range(4)]
        store.publish("one", "pairwise", tasks)
        assert store.last("eva") is None
        for n in range(3):
            store.submit(answer(tasks[n], "eva", f"j{n}"), seconds=n + 1.5, now=n)
        store.submit(answer(tasks[3], "ben", "b"))
        store.submit(answer(tasks[0], "eva", "j3", supersedes="j0"), now=9)
        store.submit(skip(tasks[2], "eva", "j4", supersedes="j2"), now=10)
        past = store.history("eva")
        assert [(p.judgement.id, p.task, p.form, p.created, p.seconds) for p in past] == [
            ("j3", tasks[0], "pairwise", 9, None),
            ("j1", tasks[1], "pairwise", 1, 2.5),
        ]
        assert [p.judgement.id for p in store.history("eva", limit=1, offset=1)] == ["j1"]
        assert store.last("eva") == ("j3", "t0")
        assert store.seconds() == {"j1": 2.5}
        assert store.judgement("j0") == answer(tasks[0], "eva", "j0")
        assert store.judgement("j9") is None

    def test_counts(self, store: AnnotationStore) -> None:
        tasks = [make_task(f"t{n}", overlap=2) for n in range(4)]
        gold = make_task("gold", overlap=1000).model_copy(update={"gold": Pairwise(a="gold-a", b="gold-b", p_a=1.0)})
        store.publish("one", "pairwise", [*tasks[:2], gold, *tasks[2:]])
        store.publish("two", "pairwise", [make_task("else")])
        for task in (tasks[0], tasks[1], gold):
            store.submit(answer(task, "eva", f"eva-{task.id}"))
        for who in ("ben", "zoe"):
            store.submit(answer(gold, who, f"{who}-gold"))
        store.submit(answer(tasks[0], "ben", "ben-t0"))
        store.submit(skip(tasks[1], "ben", "ben-t1"))
        assert store.progress("one", "eva") == (4, 1, 3, 3)
        assert store.wanted("one") == 8
        assert store.workload("one", "eva") == (3, 2)
        assert store.workload("one", "ben") == (2, 2)
        assert store.workload("one", "new") == (0, 4)
        assert store.answered("two", "eva") == 0

    def test_what_is_withdrawn_does_not_count(self, store: AnnotationStore) -> None:
        tasks = [make_task(f"t{n}", overlap=2) for n in range(3)]
        store.publish("one", "pairwise", tasks)
        for who, task in (("eva", 0), ("ben", 0), ("eva", 1)):
            store.submit(answer(tasks[task], who, f"{who}-{task}"))
        assert store.progress("one", "eva") == (3, 1, 3, 2)
        store.ask("one", {"t1": 2, "t2": 2})
        assert store.progress("one", "eva") == (2, 0, 1, 1)
        assert store.workload("one", "eva") == (1, 1)
        assert store.workload("one", "ben") == (0, 2)
        store.ask("one", {})  # finished: all of it is what was asked
        assert store.progress("one", "eva") == (3, 3, 3, 2)

    def test_the_maintained_counts_are_those_of_the_judgements(self, store: AnnotationStore) -> None:
        rng = random.Random(1)
        tasks = [make_task(f"t{n}", overlap=3) for n in range(6)]
        store.publish("one", "pairwise", tasks)
        newest: dict[tuple[str, str], str] = {}
        for n in range(600):
            task, who = rng.choice(tasks), rng.choice("abcde")
            make = rng.choice((answer, skip, lambda *a, **k: skip(*a, status="flagged", **k)))
            try:
                store.submit(make(task, who, f"j{n}", supersedes=newest.get((task.id, who))))
            except Refused:
                continue
            newest[task.id, who] = f"j{n}"
        stands = [j for j in store.judgements() if j.status in ("ok", "flagged")]
        counted = {task.id: sum(j.task_id == task.id for j in stands) for task in tasks}
        with sqlite3.connect(store.path) as connection:
            assert dict(connection.execute("SELECT id, answers FROM tasks")) == counted
        assert max(counted.values()) == 3
        assert len(newest) > 20


class TestGold:
    """Nobody can tell by when it comes which task is gold."""

    def publish(self, store: AnnotationStore, others: int, gold: int, every: int) -> None:
        known = Pairwise(a="a", b="b", p_a=1.0)
        golden = [
            make_task(f"g{n}", overlap=1000).model_copy(
                update={"gold": known.model_copy(update={"a": f"g{n}-a", "b": f"g{n}-b"})}
            )
            for n in range(gold)
        ]
        store.publish("one", "pairwise", [*(make_task(f"t{n}") for n in range(others)), *golden])
        store.gold_every("one", every)

    def work(self, store: AnnotationStore, who: str, most: int = 1000) -> list[str]:
        """The ids of what one annotator is asked, one after the other."""
        asked = []
        while len(asked) < most and (found := store.next_task(who)) is not None:
            asked.append(found[0].id)
            assert store.next_task(who) == found
            store.submit(answer(found[0], who, f"{who}-{found[0].id}"))
        return asked

    def test_is_spread_over_all_of_the_work_and_never_at_its_end(self, store: AnnotationStore) -> None:
        self.publish(store, others=100, gold=10, every=10)
        asked = self.work(store, "eva")
        at = [n for n, id in enumerate(asked) if id.startswith("g")]
        assert len(at) == 10
        assert [id for id in asked if id.startswith("t")] == [f"t{n}" for n in range(100)]
        # before a place n there are n - i others: the i-th gold task is among the i-th ten of them
        assert [(n - i) // 10 for i, n in enumerate(at)] == list(range(10))
        assert len({after - before for before, after in pairwise(at)}) > 3, "a pattern to be seen"
        assert asked[-1].startswith("t")
        assert self.work(store, "ben") == [], "gold alone can be told"

    def test_each_person_has_his_own_places_and_order(self, tmp_path: Path) -> None:
        seen = []
        for number, who in enumerate(("eva", "ben", "eva")):
            store = AnnotationStore(tmp_path / f"{number}.sqlite")
            self.publish(store, others=30, gold=6, every=5)
            asked = self.work(store, who)
            seen.append([(n, id) for n, id in enumerate(asked) if id.startswith("g")])
            store.close()
        assert seen[0] == seen[2]
        assert [n for n, _ in seen[0]] != [n for n, _ in seen[1]]
        assert [id for _, id in seen[0]] != [id for _, id in seen[1]]
        assert {id for _, id in seen[0]} == {id for _, id in seen[1]} == {f"g{n}" for n in range(6)}

    def test_who_comes_late_gets_no_row_of_them(self, store: AnnotationStore) -> None:
        self.publish(store, others=100, gold=10, every=10)
        self.work(store, "eva", most=66)
        asked = "".join(id[0] for id in self.work(store, "ben"))
        assert "gg" not in asked
        assert asked.endswith("t")
        assert 8 <= asked.count("g") <= 10, asked
        assert "gtgtgtgtgt" not in asked, "a pattern to be seen"

    def test_of_too_many_each_person_gets_others(self, store: AnnotationStore) -> None:
        self.publish(store, others=40, gold=50, every=10)
        got = {who: {id for id in self.work(store, who, most) if id[0] == "g"} for who, most in (("a", 22), ("b", 99))}
        assert 1 <= len(got["a"]) <= 3
        assert 1 <= len(got["b"]) <= 4
        assert got["a"] != got["b"]

    def test_added_later_it_comes_among_what_is_left(self, store: AnnotationStore) -> None:
        store.publish("one", "pairwise", [make_task(f"t{n}") for n in range(20)])
        assert self.work(store, "eva", most=10) == [f"t{n}" for n in range(10)]
        self.publish(store, others=20, gold=4, every=5)
        assert sorted(id for id in self.work(store, "eva") if id[0] == "g") == ["g0", "g1", "g2", "g3"]


class TestInstructions:
    def test_new_ones_replace_the_old(self, store: AnnotationStore) -> None:
        assert store.instructions("one") == Instructions()
        first, second = Instructions(question="Well?", guidelines="g"), Instructions(guidelines="h", rating_high=5)
        for told in (first, first, second, first):
            store.instruct("one", told)
            assert store.instructions("one") == told
        assert store.instructions("two") == Instructions()
        with sqlite3.connect(store.path) as connection:
            assert connection.execute("SELECT count(DISTINCT hash), count(*) FROM instructions").fetchone() == (2, 3)
        store.publish("one", "pairwise", [make_task()])
        assert store.briefing("t0") == ("one", first)
        with pytest.raises(UserError, match="no task"):
            store.briefing("t1")

    def test_the_version_is_that_of_the_guidelines(self) -> None:
        told = Instructions(question="Well?", guidelines="g")
        assert guidelines_version(told) == guidelines_version(Instructions(guidelines="g"))
        assert guidelines_version(told) != guidelines_version(Instructions(guidelines="h"))


class TestAnnotators:
    def test_come_in_with_their_newest_invite(self, store: AnnotationStore) -> None:
        people = store.annotators
        eva = people.add(" Eva  Maria ")
        assert (eva.id, eva.name, eva.active) == ("eva-maria", "Eva Maria", True)
        assert people.add("EVA MARIA") == eva
        ben = people.add("Ben")
        assert people.all() == [eva, ben]
        assert people.invited(eva.invite) == eva
        again = people.renew("eva-maria")
        assert people.invited(eva.invite) is None
        assert people.invited(again.invite) == again
        assert people.invited("nothing") is None
        for impossible in ("", "  ", "x" * 61, "a\x1bb"):
            with pytest.raises(UserError, match="printable"):
                people.add(impossible)
        with pytest.raises(UserError, match="'eva-maria' cannot be told from 'Eva Maria'"):
            people.add("eva-maria")
        for change in (lambda: people.renew("zoe"), lambda: people.set_active("zoe", False)):
            with pytest.raises(UserError, match="no annotator 'zoe'"):
                change()

    def test_who_is_kept_out_gives_back_what_he_held(self, store: AnnotationStore) -> None:
        store.publish("one", "pairwise", [make_task()])
        ben = store.annotators.add("Ben")
        assert store.next_task("ben") is not None
        assert store.next_task("eva") is None
        store.annotators.set_active("ben", False)
        assert store.annotators.invited(ben.invite) is None
        assert store.next_task("eva") is not None
        store.annotators.set_active("ben", True)
        assert store.annotators.invited(ben.invite) == ben

    def test_acknowledgements_and_the_secret_are_in_the_file(self, store: AnnotationStore) -> None:
        store.annotators.add("Eva")
        for _ in range(2):
            store.annotators.acknowledge("eva", "v1")
        secret = store.annotators.secret()
        assert len(secret) == 64
        store.close()
        again = AnnotationStore(store.path, create=False).annotators
        assert again.secret() == secret
        assert again.has_acknowledged("eva", "v1")
        assert not again.has_acknowledged("eva", "v2")


def test_handing_out_does_not_get_slower_with_what_is_done(store: AnnotationStore) -> None:
    """5,000 tasks, all but a few of them done: SQLite looks at the open ones alone."""
    store.publish("one", "pairwise", [make_task(f"t{n}") for n in range(5000)])
    with sqlite3.connect(store.path) as connection:
        connection.execute("UPDATE tasks SET answers = 1 WHERE seq < 4990")
    with store._read() as connection:
        query = FREE_TASK.compile(store._database._engine)
        plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {query}", ("eva", "undone", 0, 1, 0))
        assert "USING INDEX tasks_open" in plan.all()[0].detail
        plan = connection.exec_driver_sql(
            f"EXPLAIN QUERY PLAN {HELD_TASK.compile(store._database._engine)}", ("e", 1, 0)
        )
        assert not any("SCAN tasks" in row.detail for row in plan)
    found = store.next_task("eva")
    assert found is not None
    assert found[0].id == "t4989"
