"""Where the tasks come from: a file, or completions of the policy."""

import logging
import math
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from alignkit.context import StepContext
from alignkit.data.store import RecordFile, write_records
from alignkit.errors import UserError
from alignkit.files import digest, write_json
from alignkit.loop.guarded import FILE, GuardedSource
from alignkit.loop.origin import Origin, draws_texts, origin_of
from alignkit.loop.prompts import Fitting, fitting_prompts
from alignkit.protocols import Policy, Scores
from alignkit.recipe import ComponentSpec
from alignkit.recipe.check import references
from alignkit.records import Candidate, Prompt, Task, content_id
from alignkit.seeds import derived_seed
from alignkit_plugins.step_collect.config import CollectConfig
from alignkit_plugins.step_collect.journal import Journal

logger = logging.getLogger("alignkit")
CHUNK = 64
SAMPLED = "sampled.partial.jsonl"


def make_tasks(config: CollectConfig, context: StepContext) -> list[Task]:
    """The tasks of this step, as its folder keeps them: once published they stay as they are.

    A run that waited for people goes on with the same completions, one that was killed while it sampled with those
    that it had. `left_out.json` has what was not asked about.
    """
    path, sampled = context.folder / "tasks.jsonl", context.folder / SAMPLED
    if path.is_file():
        with context.checkpoints.loop() as loop:
            loop.restored()  # there is nothing left to do in it
    else:
        tasks = _given(config, context) if config.tasks is not None else _Sampled(config, context).tasks(sampled)
        write_records(path, tasks)
    sampled.unlink(missing_ok=True)
    return list(RecordFile(path, Task))


def _given(config: CollectConfig, context: StepContext) -> list[Task]:
    assert config.tasks is not None
    path = context.resolve(config.tasks)
    path = path / "tasks.jsonl" if path.is_dir() else path
    if not path.is_file():
        raise UserError("the file with tasks does not exist", where=path, hint="`alignkit feedback import` makes one")
    found = list(RecordFile(path, Task))
    few = [task for task in found if len(task.candidates) < 2]
    tasks = [
        task.model_copy(update={"overlap": config.overlap, "gold": None}) for task in found if len(task.candidates) > 1
    ]
    _check_ids(tasks, path)
    # with a limit later rounds go on where the one before ended; asking the same again would count its pairs twice
    first = (context.round - 1) * (config.limit or len(tasks))
    kept = tasks[first : first + (config.limit or len(tasks))]
    if tasks and not kept:
        raise UserError(
            f"all {len(tasks)} tasks were asked in the rounds before", where=path, hint="lower limit or rounds"
        )
    write_json(
        context.folder / "left_out.json",
        {"tasks_with_one_candidate": len(few), "tasks_over_limit": len(tasks) - len(kept)},
    )
    if not kept:
        raise UserError("there is no task with two candidates or more", where=path)
    return kept


def _check_ids(tasks: Sequence[Task], path: Path) -> None:
    seen: set[str] = set()
    for task in tasks:
        if task.id in seen:
            raise UserError(f"two tasks have the id {task.id!r}", where=path)
        seen.add(task.id)


class _Sampled:
    """Tasks of K completions of each prompt."""

    def __init__(self, config: CollectConfig, context: StepContext) -> None:
        self.config = config
        self.context = context

    def tasks(self, partial: Path) -> list[Task]:
        """All of them; those that are sampled go to the file `partial`, and what it has is not sampled again."""
        config, context = self.config, self.context
        chooser = self._chooser()
        draws_texts(config.sampler, config.of_a_policy(), context)
        origin = origin_of(config.sampler, config.policy, context)
        prompts, too_long = self._prompts(origin.policy, config.pool if chooser is not None else 1.0)
        revision = origin.revision
        context.start_progress(len(prompts), "prompt")
        found: list[tuple[float, Task]] = []
        about = digest([context.seed, revision, config.samples_per_prompt, [prompt.id for prompt in prompts]])
        with context.checkpoints.loop() as loop, closing(Journal(partial, about)) as journal:
            loop.restored()  # what is done stands in the journal
            for row in journal.rows():
                found += [(gap, Task.model_validate(task)) for gap, task in row]
            if found:
                logger.info("going on after %d of %d prompts, which are sampled", len(found), len(prompts))
                context.log(len(found), {})
            for start in range(len(found), len(prompts), CHUNK):
                chunk = prompts[start : start + CHUNK]
                seed = derived_seed(context.seed, "collect", start)
                more = self._sample(origin, revision, chunk, seed, chooser)
                journal.append([(gap, task.model_dump(mode="json", exclude_defaults=True)) for gap, task in more])
                found += more
                context.log(len(found), {})
                loop.safe_point(len(found), dict)
        kept = self._chosen(found) if chooser is not None else [task for _, task in found]
        left_out = {"prompts_too_long": too_long, "prompts_not_chosen": len(found) - len(kept)}
        write_json(context.folder / "left_out.json", left_out)
        return kept

    def _chooser(self) -> Scores | None:
        """None in the first round, when no model could be unsure yet.

        A source that cannot choose is an error then already, unless it needs what only the first round makes.
        """
        spec, first = self.config.choose_by, self.context.round == 1
        if spec is None or (first and not self._is_there(spec)):
            return None
        source: Scores = self.context.build("reward_source", spec)
        if not hasattr(source, "score"):
            raise UserError(
                f"choose_by needs scores, and reward source {spec.name!r} gives judgements",
                where=f"step {self.context.step_id}",
            )
        name = self.context.manager.get("reward_source", spec.name).described
        return None if first else GuardedSource(source, name, rows=self.context.checkpoints.rows(FILE))

    def _is_there(self, spec: ComponentSpec) -> bool:
        """Whether every step that its options refer to has run."""
        try:
            for reference, _ in references(spec.options):
                self.context.resolve(reference)
        except UserError:
            return False
        return True

    def _prompts(self, policy: Policy | None, pool: float) -> Fitting:
        """This round's share of the prompts: with a limit, later rounds ask about new ones, then start over."""
        assert self.config.prompts is not None
        found = self.context.records(self.config.prompts, "prompts")
        longest = self.config.max_prompt_length
        everything, too_long = Fitting(list(found), 0) if policy is None else fitting_prompts(policy, found, longest)
        limit = self.config.limit or len(everything)
        first = (self.context.round - 1) * min(limit, len(everything))
        count = min(round(limit * pool), len(everything))
        return Fitting([everything[(first + i) % len(everything)] for i in range(count)], too_long)

    def _sample(
        self, origin: Origin, revision: str, prompts: Sequence[Prompt], seed: int, chooser: Scores | None
    ) -> list[tuple[float, Task]]:
        """(gap between the scores of the two best texts, task) for each prompt."""
        K = self.config.samples_per_prompt
        rollout = origin.draw([p for p in prompts for _ in range(K)], self.config.sampling, seed)
        scores_B = chooser.score(rollout).tolist() if chooser is not None else [0.0] * len(rollout)
        found = []
        for i, prompt in enumerate(prompts):
            rows = range(i * K, (i + 1) * K)
            candidates = tuple(
                Candidate(
                    id=content_id(prompt.id, rollout.texts[b], revision, str(b - i * K)),
                    prompt_id=prompt.id,
                    prompt=prompt.prompt,
                    completion=rollout.texts[b],
                    policy_revision=revision,
                    sampling=self.config.sampling,
                    seed=seed,
                    prompt_ids=rollout.prompt_ids[b],
                    completion_ids=rollout.completion_ids[b],
                    finish_reason=rollout.finish[b],
                )
                for b in rows
            )
            scores = {rollout.texts[b]: scores_B[b] for b in rows}  # equal texts are one
            best, second = [*sorted(scores.values(), reverse=True), -math.inf][:2]
            id = content_id(*(c.id for c in candidates))
            task = Task(id=id, prompt=prompt.prompt, candidates=candidates, overlap=self.config.overlap)
            found.append((best - second, task))
        return found

    def _chosen(self, found: Sequence[tuple[float, Task]]) -> list[Task]:
        """The tasks with the smallest gaps, in their first order. Those whose texts are all equal come last."""
        chosen = sorted((gap, n, task) for n, (gap, task) in enumerate(found))[: self.config.limit]
        logger.info("%d of %d prompts chosen, those with the smallest gaps", len(chosen), len(found))
        return [task for _, _, task in sorted(chosen, key=lambda row: row[1])]
