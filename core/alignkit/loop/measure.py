"""Measuring a policy on prompts: score, KL to the reference, length, diversity. Nothing is trained."""

from collections.abc import Mapping, Sequence

from alignkit.batches import Rollout
from alignkit.errors import Fault
from alignkit.loop.guarded import GuardedSource
from alignkit.loop.left_out import without_failed
from alignkit.loop.logprobs import rollout_logprobs
from alignkit.loop.rollouts import checked_rollout
from alignkit.ops import Ops
from alignkit.protocols import Policy, Sampler, Scores
from alignkit.records import Prompt, Sampling


def measure(
    policy: Policy | None,
    reference: Policy | None,
    sampler: Sampler,
    prompts: Sequence[Prompt],
    sampling: Sampling,
    sources: Mapping[str, Scores],
    ops: Ops,
    seed: int,
    max_tokens: int,
    sampler_name: str = "the sampler",
) -> tuple[dict[str, float], Rollout]:
    """One completion per prompt; mean score of each source under its name, `kl` and the figures of `text_figures`.

    Completions that a source with `then: skip` could not score are left out of its mean and counted.

    `kl` is the log-ratio to the reference summed over tokens, averaged over samples (nats), at the sampling
    temperature; it needs samples from the whole distribution, so it is left out where ids were left out (`kept_BTK`) or
    greedy, a reference with the same tokenizer, and the policy that was sampled (None with a `TextOnly` sampler).
    """
    rollout = checked_rollout(sampler, policy, prompts, sampling, seed, sampler_name)
    figures = text_figures(rollout)
    for name, source in sources.items():
        figures |= _mean_score(name, source if isinstance(source, GuardedSource) else GuardedSource(source), rollout)
    whole = rollout.kept_BTK is None and sampling.temperature > 0
    if policy is not None and reference is not None and whole and reference.tokenizer_id == policy.tokenizer_id:
        own_BT = rollout_logprobs(policy, rollout, ops, max_tokens)
        ref_BT = rollout_logprobs(reference, rollout, ops, max_tokens)
        figures["kl"] = float((own_BT - ref_BT).sum(-1).mean())
    return figures, rollout


def _mean_score(name: str, source: GuardedSource, rollout: Rollout) -> dict[str, float]:
    """The mean, and under `NAME_left_out` how many completions it is without, if any."""
    scored = source.ask(rollout)
    kept = without_failed(rollout, scored)
    if kept is None:
        raise Fault(f"{source.name} could score none of {len(rollout)} completions of a measurement")
    left_out = len(rollout) - len(kept[0])
    return {name: float(kept[1].mean())} | ({f"{name}_left_out": float(left_out)} if left_out else {})


def text_figures(rollout: Rollout) -> dict[str, float]:
    """`length`, `missing_stop` (share), `distinct_2` (different word pairs / all, over the whole set).

    Lengths are in tokens; of texts without ids there are `words` instead.
    """
    count = len(rollout)
    tokens = sum(len(c) for c in rollout.completion_ids) / count
    return {
        **({"words": mean_words(rollout.texts)} if rollout.text_only else {"length": tokens}),
        "missing_stop": sum(f != "stop" for f in rollout.finish) / count,
        "distinct_2": distinct_n(rollout.texts, 2),
    }


def mean_words(texts: Sequence[str]) -> float:
    """White-space words of a text."""
    return sum(len(text.split()) for text in texts) / len(texts)


def distinct_n(texts: Sequence[str], n: int) -> float:
    """Different n-grams of white-space words divided by all of them (Li et al. 2016)."""
    grams = [tuple(words[i : i + n]) for t in texts for words in [t.split()] for i in range(len(words) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 0.0
