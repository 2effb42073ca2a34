"""The step `collect`: tasks, judgements, and what they make: preference pairs, labels, demonstrations."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from alignkit.context import HELDOUT, PARTS, StepContext
from alignkit.data.store import RecordFile, write_records
from alignkit.errors import UserError
from alignkit.feedback import judgements_hash, labelled_completions, preference_pairs, revised_demonstrations
from alignkit.files import read_json
from alignkit.hooks import notify
from alignkit.preflight import Finding
from alignkit.protocols import ReportsAnnotation, StepOutput
from alignkit.records import Judgement, Record, Task, content_id, plain_text
from alignkit_plugins.step_collect.candidates import make_tasks
from alignkit_plugins.step_collect.config import CollectConfig
from alignkit_plugins.step_collect.judging import JUDGED, judge

SHOWN_NAMES = 3


class Answered(NamedTuple):
    """Tasks with the judgements of them."""

    tasks: list[Task]
    judgements: list[Judgement]


class Collect:
    """Satisfies `alignkit.protocols.Step`."""

    def __init__(self, config: CollectConfig) -> None:
        self.config = config

    def examine(self, context: StepContext) -> Iterable[Finding]:
        """Prompts and policy, before it runs."""
        from alignkit_plugins.step_collect.examine import examine_collect

        return examine_collect(self.config, context)

    def run(self, context: StepContext) -> StepOutput:
        """Write tasks, judgements and parts. Raises Paused if people have not answered enough yet."""
        source = context.build("reward_source", self.config.reward_source)
        if not hasattr(source, "annotate"):
            raise UserError(
                f"reward source {self.config.reward_source.name!r} gives scores, not judgements",
                where=f"step {context.step_id}",
                hint="collect needs human, ai, simulated or another source that judges",
            )
        tasks = make_tasks(self.config, context)
        who = context.manager.get("reward_source", self.config.reward_source.name).described
        judgements = judge(source, tasks, context, who)
        write_records(context.folder / "judgements.jsonl", judgements)
        notify(context.manager, "alignkit_judgements", run=context.run, step_id=context.step_id, judgements=judgements)
        rounds = [*self._earlier(context), Answered(tasks, judgements)]
        left_out: Counter[str] = Counter()
        outputs = {"": ".", "tasks": "tasks.jsonl", "judgements": "judgements.jsonl"}
        counts: dict[str, int] = {}
        for part, records in self._parts(rounds, left_out).items():
            counts[part] = len(records)
            if records or part.endswith("preferences"):  # the others come from some forms of judgement alone
                write_records(context.folder / f"{part}.jsonl", records)
                outputs[part] = f"{part}.jsonl"
        figures = self._figures(rounds[-1], context) | {
            "rounds_used": len(rounds),
            "pairs": counts["preferences"],
            "heldout_pairs": counts[HELDOUT + "preferences"],
            "equal_pairs_left_out": left_out["equal"],
            "labels": counts["labels"],
            "heldout_labels": counts[HELDOUT + "labels"],
            "divided_labels_left_out": left_out["divided"],
            "demonstrations": counts["demonstrations"],
        }
        if isinstance(source, ReportsAnnotation):
            figures["about_source"] = dict(source.annotation_figures())
        summary: dict[str, Any] = {"feedback": {context.step_id: figures}}
        programs = sorted({j.annotator.id for j in judgements if j.annotator.kind == "program"})
        if programs:
            summary["simulation"] = _said_of(programs)
        (context.folder / JUDGED).unlink(missing_ok=True)
        return StepOutput(outputs, summary)

    def _earlier(self, context: StepContext) -> list[Answered]:
        """What the rounds before asked and heard, the oldest first, as far as it is to be used."""
        if context.previous_folder is None:
            return []
        used = self.config.rounds_used
        first = 1 if used is None else max(1, context.round - used + 1)
        found = []
        for round in range(first, context.round):
            folder = context.run.folder / f"r{round}" / context.folder.name
            tasks, judgements = folder / "tasks.jsonl", folder / "judgements.jsonl"
            found.append(Answered(list(RecordFile(tasks, Task)), list(RecordFile(judgements, Judgement))))
        return found

    def _parts(self, rounds: Sequence[Answered], left_out: Counter[str]) -> Mapping[str, Sequence[Record]]:
        """Part -> its records, all rounds in order. Only the newest round's leavings are counted."""
        parts: defaultdict[str, list[Record]] = defaultdict(list)
        for number, (tasks, judgements) in enumerate(rounds, 1):
            counted = left_out if number == len(rounds) else None
            threshold = self.config.rating_threshold
            heldout = {task.id for task in tasks if self._held_out(task)}
            pairs = preference_pairs(tasks, judgements, rating_threshold=threshold, left_out=counted)
            labels = labelled_completions(tasks, judgements, left_out=counted)
            shown = revised_demonstrations(tasks, judgements)
            found: dict[str, list[tuple[str, Record]]] = {
                "preferences": [(pair.group, pair) for pair in pairs],
                "labels": [(id, label) for id, own in labels.items() for label in own],
                "demonstrations": [(id, one) for id, own in shown.items() for one in own],
            }
            for part, records in found.items():
                assert part in PARTS
                parts[part] += [record for id, record in records if id not in heldout]
                parts[HELDOUT + part] += [record for id, record in records if id in heldout]
        return parts

    def _figures(self, answered: Answered, context: StepContext) -> dict[str, Any]:
        from alignkit.agreement import agreement

        tasks, judgements = answered
        status = Counter(j.status for j in judgements)
        return {
            "source": self.config.reward_source.name,
            "policies": sorted({c.policy_revision for task in tasks for c in task.candidates}),
            "tasks": len(tasks),
            **read_json(context.folder / "left_out.json"),
            "judgements": len(judgements),
            "snapshot": judgements_hash(judgements),
            "not_usable": {k: v for k, v in status.items() if k != "ok"},
            "annotators": sorted({j.annotator.id for j in judgements}),
            "agreement": {kind: found._asdict() for kind, found in agreement(tasks, judgements).items()},
        }

    def _held_out(self, task: Task) -> bool:
        """By the prompt's hash, so that a prompt is on the same side in every round; without a prompt by the task's."""
        key = content_id(task.prompt) if plain_text(task.prompt).strip() else content_id(task.id)
        return int(key[:8], 16) / 16**8 < self.config.heldout


def _said_of(programs: Sequence[str]) -> str:
    more = f" and {len(programs) - SHOWN_NAMES} more" if len(programs) > SHOWN_NAMES else ""
    return f"Judgements come from a program ({', '.join(programs[:SHOWN_NAMES])}{more}), not from people."
