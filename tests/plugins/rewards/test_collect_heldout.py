"""Which prompts `collect` keeps for measuring: by the prompt's text, the same in every round."""

from alignkit.records import Candidate, Sampling, Task
from alignkit_plugins.step_collect.plugin import CollectConfig
from alignkit_plugins.step_collect.step import Collect


def task(prompt: str, prompt_id: str, revision: str = "r1") -> Task:
    candidate = Candidate(
        id=f"{prompt_id}-{revision}",
        prompt_id=prompt_id,
        prompt=prompt,
        completion="x",
        policy_revision=revision,
        sampling=Sampling(),
        seed=0,
        prompt_ids=(1,),
        completion_ids=(7,),
        finish_reason="stop",
    )
    return Task(id=f"{prompt_id}-{revision}", prompt=prompt, candidates=(candidate,))


def collect(share: float) -> Collect:
    return Collect(CollectConfig(prompts="@p", reward_source="simulated", heldout=share))


def test_the_share_is_right_and_ids_of_the_users_own_work() -> None:
    step = collect(0.2)
    held = [step._held_out(task(f"prompt {n}", f"question-{n}")) for n in range(3000)]
    assert 0.17 < sum(held) / 3000 < 0.23
    assert not any(collect(0.0)._held_out(task(f"prompt {n}", "q")) for n in range(100))


def test_a_prompt_is_on_the_same_side_in_every_round() -> None:
    step = collect(0.5)
    for n in range(50):
        first, later = (step._held_out(task(f"prompt {n}", f"id-{r}", r)) for r in ("r1", "r2"))
        assert first == later
