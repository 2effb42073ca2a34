"""The labelling page as people get it: `alignkit label` in a process of its own, a store, and links from its output."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

from alignkit.annotation import AnnotationStore, Form
from alignkit.records import Instructions, Task
from helpers.label_pages import label_task

CANDIDATES: dict[Form, int] = {"ranking": 4, "pairwise": 2, "rating": 1, "binary": 1, "critique": 1}
FORMS = tuple(CANDIDATES)
# Ten steps: the key of the highest is 0.
SCALE = Instructions(rating_low=1, rating_high=10)


class LabelServer:
    """Runs until `kill` or the end of the `with` block; after a kill it can be started again, on the same port."""

    def __init__(self, store: Path, *arguments: str) -> None:
        self.store = store
        self.arguments = arguments
        self.port = 0
        self.links: dict[str, str] = {}
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> "LabelServer":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def origin(self) -> str:
        """Without a slash at the end."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Returns when the links are printed: the socket listens by then."""
        command = [sys.executable, "-m", "alignkit.cli", "label", str(self.store), "--port", str(self.port)]
        self._process = subprocess.Popen(
            [*command, "--annotators", "anna,ben", *self.arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )  # fmt: skip
        assert self._process.stdout is not None
        said = ""
        for line in self._process.stdout:
            said += line
            if line.startswith("Ctrl+C"):
                break
        self.links = dict(re.findall(r"^ +(\S+) +(http://\S+)$", said, re.MULTILINE))
        assert set(self.links) == {"admin", "anna", "ben"}, said
        self.port = int(self.links["admin"].split(":")[2].split("/")[0])

    def kill(self) -> None:
        """As the machine does when it runs out of memory."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGKILL)
        self._process.communicate()
        self._process = None


def make_store(folder: Path, form: Form, count: int, **more: object) -> list[Task]:
    """`count` tasks whose answers say which they are: on the page they stand in another order, without their ids."""
    tasks = []
    for number in range(count):
        texts = [f"answer {n} to question {number}" for n in range(CANDIDATES[form])]
        tasks.append(label_task(f"t{number}", texts, f"question {number}", overlap=2))
    publish(folder, form, tasks, **more)
    return tasks


def publish(folder: Path, form: Form, tasks: list[Task], **told: object) -> None:
    """Into the collection `r1-labels` of FOLDER/annotations.sqlite."""
    store = AnnotationStore(folder / "annotations.sqlite")
    store.publish("r1-labels", form, tasks)
    store.instruct("r1-labels", SCALE.model_copy(update=told))
    store.close()
