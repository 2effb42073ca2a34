"""A store whose file cannot be written, is held by others, or is damaged: it says so, and keeps what it has."""

import multiprocessing
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

import pytest
from sqlalchemy.exc import IntegrityError

from alignkit.annotation import AnnotationStore, StoreFault, tables
from alignkit.annotation.refusals import explained
from alignkit.errors import Fault, UserError
from alignkit.records import Annotator, Judgement, Pairwise, Task
from helpers.full_disks import Refusal, refusing
from helpers.label_pages import label_task

ANSWERS = 12


def answer(task: Task, id: str) -> Judgement:
    """Of eva, so long that pages fill up."""
    payload = Pairwise(a=f"{task.id}-0", b=f"{task.id}-1", p_a=1.0)
    return Judgement(id=id + "x" * 3000, task_id=task.id, annotator=Annotator(id="eva", kind="human"), payload=payload)


@pytest.fixture
def tasks() -> list[Task]:
    return [label_task(f"t{n}", ["one", "two"], overlap=1) for n in range(ANSWERS)]


@pytest.fixture
def store(tmp_path: Path, tasks: list[Task]) -> Iterator[AnnotationStore]:
    """With tasks, and the first half of the answers."""
    opened = AnnotationStore(tmp_path / "annotations.sqlite")
    opened.publish("one", "pairwise", tasks)
    for n in range(ANSWERS // 2):
        opened.submit(answer(tasks[n], f"j{n}"))
    yield opened
    opened.close()


def stored(store: AnnotationStore) -> list[str]:
    return [judgement.id.rstrip("x") for judgement in store.judgements()]


@pytest.mark.parametrize("how", ["full", "read-only"])
def test_an_answer_that_cannot_be_stored_is_refused_and_can_come_again(
    store: AnnotationStore, tasks: list[Task], how: Refusal
) -> None:
    before = stored(store)
    engine = store._database._engine
    accepted = []
    with refusing(engine, how):
        with pytest.raises(StoreFault) as raised:  # noqa: PT012  (a full file may have room for some)
            for n in range(ANSWERS // 2, ANSWERS):
                assert store.submit(answer(tasks[n], f"j{n}"))
                accepted.append(f"j{n}")
        assert raised.value.where == str(store.path)
        assert {"full": "the disk is full", "read-only": "cannot be written"}[how] in raised.value.what
        assert raised.value.hint
        assert not raised.value.waits
        assert isinstance(raised.value, Fault)
        assert stored(store) == before + accepted  # reading goes on
    assert len(accepted) < ANSWERS // 2
    # the count of answers is undone with the answer: the task still has room
    progress = store.progress("one")
    assert progress.answers == len(before) + len(accepted)
    for n in range(ANSWERS // 2, ANSWERS):
        assert store.submit(answer(tasks[n], f"j{n}")) == (f"j{n}" not in accepted)
    assert sorted(stored(store)) == sorted(f"j{n}" for n in range(ANSWERS))
    assert store.progress("one").complete == ANSWERS


def test_who_waits_too_long_for_another_process_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: AnnotationStore, tasks: list[Task]
) -> None:
    monkeypatch.setattr(tables, "WAIT_SECONDS", 0.05)
    impatient = AnnotationStore(store.path)
    other = sqlite3.connect(store.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreFault, match="another process") as raised:
        impatient.submit(answer(tasks[-1], "late"))
    assert raised.value.waits
    with pytest.raises(StoreFault, match="another process"):  # not: "this is no store"
        AnnotationStore(store.path)
    other.execute("ROLLBACK")
    other.close()
    assert impatient.submit(answer(tasks[-1], "late"))
    impatient.close()


def test_a_read_only_disk_is_told_from_a_file_that_is_no_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: AnnotationStore
) -> None:
    opened, stack = tables.open_engine, ExitStack()

    def read_only(path: Path) -> Any:
        engine = opened(path)
        stack.enter_context(refusing(engine, "read-only"))
        return engine

    (tmp_path / "text").write_text("no database at all, but a text\n" * 100)
    with pytest.raises(UserError, match="this is not an annotation store"):
        AnnotationStore(tmp_path / "text")
    monkeypatch.setattr("alignkit.annotation.database.open_engine", read_only)
    with stack, pytest.raises(StoreFault, match="the database cannot be written"):
        AnnotationStore(store.path)


def test_a_damaged_file_is_said(store: AnnotationStore) -> None:
    store.close()
    with sqlite3.connect(store.path) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        size = database.execute("PRAGMA page_size").fetchone()[0]
        page = database.execute("SELECT rootpage FROM sqlite_master WHERE name = 'judgements'").fetchone()[0]
    database.close()
    content = bytearray(store.path.read_bytes())
    content[(page - 1) * size : page * size] = b"\xff" * size
    store.path.write_bytes(bytes(content))
    damaged = AnnotationStore(store.path)
    with pytest.raises(StoreFault, match="damaged") as raised:
        damaged.judgements()
    assert ".recover" in str(raised.value)
    damaged.close()


def test_wherever_the_log_was_cut_the_store_opens_with_the_first_answers(
    tmp_path: Path, store: AnnotationStore, tasks: list[Task]
) -> None:
    """What a power cut may leave of the newest transactions: never half of one."""
    log = Path(f"{store.path}-wal")
    whole, everything = log.read_bytes(), [f"j{n}" for n in range(ANSWERS // 2)]
    seen = set()
    for length in (*range(0, len(whole), len(whole) // 20), len(whole)):
        folder = tmp_path / str(length)
        folder.mkdir()
        shutil.copy(store.path, folder)
        (folder / log.name).write_bytes(whole[:length])
        cut = AnnotationStore(folder / store.path.name)
        found = stored(cut) if cut.collections() else []
        assert found == everything[: len(found)]
        seen.add(len(found))
        cut.publish("one", "pairwise", tasks)
        for n in range(ANSWERS):
            assert cut.submit(answer(tasks[n], f"j{n}")) == (n >= len(found))
        cut.close()
    assert len(seen) >= 4


@pytest.mark.parametrize(
    ("code", "what"),
    [
        (sqlite3.SQLITE_IOERR_WRITE, "the disk failed to read or write"),
        (sqlite3.SQLITE_READONLY_DBMOVED, "the database cannot be written"),
        (sqlite3.SQLITE_CANTOPEN_ISDIR, "the database cannot be opened"),
        (sqlite3.SQLITE_BUSY_SNAPSHOT, "another process"),
    ],
)
def test_finer_codes_are_explained_too(tmp_path: Path, code: int, what: str) -> None:
    error = sqlite3.OperationalError("SQLite's words")
    error.sqlite_errorcode = code
    with pytest.raises(StoreFault, match=rf"{what}.*\(SQLite's words\)"), explained(tmp_path):
        raise error


def test_our_own_mistakes_are_not_explained_away(tmp_path: Path, store: AnnotationStore) -> None:
    with pytest.raises(IntegrityError, match="append-only"), store._write() as connection:
        connection.exec_driver_sql("DELETE FROM judgements")
    error = sqlite3.OperationalError("no such table")
    error.sqlite_errorcode = sqlite3.SQLITE_ERROR
    with pytest.raises(sqlite3.OperationalError), explained(tmp_path):
        raise error


def open_together(path: Path, barrier: Any, results: Any) -> None:
    """What a process says that opens the store with others at once."""
    try:
        barrier.wait()
        AnnotationStore(path).annotators.add("Eva")
    except Exception as error:
        results.put(f"{type(error).__name__}: {error}")
    else:
        results.put("")


@pytest.mark.concurrent
def test_processes_that_make_one_store_at_once_all_get_it(tmp_path: Path) -> None:
    fork = multiprocessing.get_context("fork")
    for turn in range(4):
        barrier, results = fork.Barrier(6), fork.Queue()
        arguments = (tmp_path / f"{turn}.sqlite", barrier, results)
        processes = [fork.Process(target=open_together, args=arguments) for _ in range(6)]
        for process in processes:
            process.start()
        assert [results.get() for _ in processes] == [""] * 6
        for process in processes:
            process.join()


def test_a_lock_that_sqlite_does_not_wait_for_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same, by hand: of two processes that want to switch a file to its log SQLite refuses one at once."""
    naps: list[float] = []
    monkeypatch.setattr(tables.time, "sleep", naps.append)

    class Refusing:
        def __init__(self, code: int, left: int) -> None:
            self.code, self.left = code, left

        def execute(self, statement: str) -> None:
            assert statement == "PRAGMA journal_mode=WAL"
            self.left -= 1
            if self.left >= 0:
                error = sqlite3.OperationalError("refused")
                error.sqlite_errorcode = self.code
                raise error

    tables._log_ahead(cast("Any", Refusing(sqlite3.SQLITE_BUSY, 3)))
    assert len(naps) == 3
    with pytest.raises(sqlite3.OperationalError):
        tables._log_ahead(cast("Any", Refusing(sqlite3.SQLITE_READONLY, 1)))
    monkeypatch.setattr(tables, "WAIT_SECONDS", -1.0)
    with pytest.raises(sqlite3.OperationalError):
        tables._log_ahead(cast("Any", Refusing(sqlite3.SQLITE_BUSY, 1)))
    assert len(naps) == 3
