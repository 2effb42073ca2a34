"""The step `collect`: sample, publish tasks, gather judgements, turn them into preference pairs and labels."""

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from alignkit.context import HELDOUT, PARTS, StepContext
from alignkit.data.store import RecordFile, write_records
from alignkit.errors import UserError
from alignkit.feedback import labelled_completions, preference_pairs
from alignkit.files import read_json, write_json
from alignkit.hooks import notify
from alignkit.loop.prompts import Fitting, fitting_prompts
from alignkit.protocols import Policy, Sampler, StepOutput
from alignkit.records import Candidate, Judgement, Prompt, Record, Task, content_id
from alignkit.seeds import derived_seed

if TYPE_CHECKING:
    from alignkit_plugins.step_collect.plugin import CollectConfig

SIMULATED = "Judgements come from simulated annotators, a program with a documented taste. No person judged anything."


class Collect:
    """Satisfies `alignkit.protocols.Step`."""

    def __init__(self, config: "CollectConfig") -> None:
        self.config = config

    def run(self, context: StepContext) -> StepOutput:
        """Tasks once published stay as they are: a run that waited for people goes on with the same completions."""
        source = context.build("reward_source", self.config.reward_source)
        if not hasattr(source, "annotate"):
            raise UserError(
                f"reward source {self.config.reward_source.name!r} gives scores, not judgements",
                where=f"step {context.step_id}",
                hint="collect needs human, simulated or another source that judges",
            )
        path = context.folder / "tasks.jsonl"
        if not path.is_file():
            write_records(path, self._tasks(context))
        tasks = list(RecordFile(path, Task))
        judgements: list[Judgement] = list(source.annotate(tasks))
        write_records(context.folder / "judgements.jsonl", judgements)
        notify(context.manager, "alignkit_judgements", run=context.run, step_id=context.step_id, judgements=judgements)
        return self._write_parts(tasks, judgements, context)

    def _tasks(self, context: StepContext) -> list[Task]:
        config = self.config
        policy = context.policy(config.policy)
        sampler: Sampler = context.build("sampler", config.sampler)
        prompts, too_long = self._prompts(policy, context)
        write_json(context.folder / "left_out.json", {"prompts_too_long": too_long})
        context.start_progress(len(prompts), "prompt")
        tasks: list[Task] = []
        for start in range(0, len(prompts), 64):
            chunk = prompts[start : start + 64]
            tasks += self._sample(policy, sampler, chunk, derived_seed(context.seed, "collect", start))
            context.log(start + len(chunk), {})
        return tasks

    def _prompts(self, policy: Policy, context: StepContext) -> Fitting:
        """This round's share of the prompts: with a limit, later rounds ask about new ones, then start over."""
        found = context.records(self.config.prompts, "prompts")
        everything, too_long = fitting_prompts(policy, found, self.config.max_prompt_length)
        count = min(self.config.limit or len(everything), len(everything))
        first = (context.round - 1) * count
        return Fitting([everything[(first + i) % len(everything)] for i in range(count)], too_long)

    def _sample(self, policy: Policy, sampler: Sampler, prompts: Sequence[Prompt], seed: int) -> list[Task]:
        K = self.config.samples_per_prompt
        rollout = sampler.rollout(policy, [p for p in prompts for _ in range(K)], self.config.sampling, seed)
        tasks = []
        for i, prompt in enumerate(prompts):
            candidates = tuple(
                Candidate(
                    id=content_id(prompt.id, rollout.texts[b], policy.revision, str(b - i * K)),
                    prompt_id=prompt.id,
                    prompt=prompt.prompt,
                    completion=rollout.texts[b],
                    policy_revision=policy.revision,
                    sampling=self.config.sampling,
                    seed=seed,
                    prompt_ids=rollout.prompt_ids[b],
                    completion_ids=rollout.completion_ids[b],
                    finish_reason=rollout.finish[b],
                )
                for b in range(i * K, (i + 1) * K)
            )
            id = content_id(*(c.id for c in candidates))
            tasks.append(Task(id=id, prompt=prompt.prompt, candidates=candidates, overlap=self.config.overlap))
        return tasks

    def _write_parts(self, tasks: list[Task], judgements: list[Judgement], context: StepContext) -> StepOutput:
        left_out: Counter[str] = Counter()
        pairs = preference_pairs(tasks, judgements, rating_threshold=self.config.rating_threshold, left_out=left_out)
        labels = labelled_completions(tasks, judgements, left_out=left_out)
        heldout = {t.id for t in tasks if self._held_out(t)}
        parts: dict[str, list[Record]] = {
            "preferences": [p for p in pairs if p.group not in heldout],
            HELDOUT + "preferences": [p for p in pairs if p.group in heldout],
            "labels": [label for task, own in labels.items() if task not in heldout for label in own],
            HELDOUT + "labels": [label for task, own in labels.items() if task in heldout for label in own],
        }
        outputs = {"": ".", "tasks": "tasks.jsonl", "judgements": "judgements.jsonl"}
        for part, new in parts.items():
            before = context.previous_folder / f"{part}.jsonl" if context.previous_folder else None
            kept = before is not None and self.config.accumulate and before.is_file()
            older = list(RecordFile(before, PARTS[part.removeprefix(HELDOUT)])) if before and kept else []
            if older or new or part.endswith("preferences"):  # labels come from good/bad judgements alone
                write_records(context.folder / f"{part}.jsonl", [*older, *new])
                outputs[part] = f"{part}.jsonl"
        status = Counter(j.status for j in judgements)
        figures: dict[str, Any] = {
            "source": self.config.reward_source.name,
            "tasks": len(tasks),
            **read_json(context.folder / "left_out.json"),
            "judgements": len(judgements),
            "not_usable": {k: v for k, v in status.items() if k != "ok"},
            "pairs": len(parts["preferences"]),
            "heldout_pairs": len(parts[HELDOUT + "preferences"]),
            "equal_pairs_left_out": left_out["equal"],
            "labels": len(parts["labels"]),
            "heldout_labels": len(parts[HELDOUT + "labels"]),
            "divided_labels_left_out": left_out["divided"],
            "annotators": sorted({j.annotator.id for j in judgements}),
        }
        summary: dict[str, Any] = {"feedback": {context.step_id: figures}}
        if any(j.annotator.kind == "program" for j in judgements):
            summary["simulated"] = SIMULATED
        return StepOutput(outputs, summary)

    def _held_out(self, task: Task) -> bool:
        """By the prompt's hash, so that a prompt is on the same side in every round."""
        return int(content_id(task.prompt)[:8], 16) / 16**8 < self.config.heldout
