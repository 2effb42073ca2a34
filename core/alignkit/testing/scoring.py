"""The suite for reward sources that score (`alignkit.protocols.Scores`)."""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from alignkit.batches import Rollout
from alignkit.errors import AlignkitError
from alignkit.protocols import BatchRelative, ReportsFigures
from alignkit.records import Content, FinishReason
from alignkit.testing.effects import no_stray_files
from alignkit.testing.randomness import assert_unused, global_seed, global_states
from alignkit.testing.reward_source import CONVERSATION, RewardSourceContract, encoder, rollout_of

HARD_COMPLETIONS: tuple[tuple[str, FinishReason], ...] = (
    ("", "stop"),
    (" \n\t", "stop"),
    (" is a film that", "length"),
    (" ist schön – 素晴らしい映画 🎬, \u202bكلام\u202c e\u0301", "stop"),
    (" {prompt} {{ 7 * 7 }} {% raw %} %s </s> <|turn|>", "stop"),
)
HINT = "if it compares on purpose, give it `batch_relative = True`"


class ScoresContract(RewardSourceContract):
    """A reward source that scores: one number for each completion of a rollout, higher is better."""

    noisy: ClassVar[bool] = False
    """Scores are drawn at random: two calls differ, and only two builds with the same seed agree."""
    better_than: ClassVar[Sequence[tuple[str, str]]] = ()
    """Pairs of completions of the first prompt, (better, worse), that must score in this order."""

    def rollout(
        self,
        completions: Sequence[str],
        finish: Sequence[FinishReason] | None = None,
        prompts: Sequence[Content] | None = None,
    ) -> Rollout:
        """What is scored. Override it for a source that needs more than texts and token ids."""
        return rollout_of(prompts or self.prompts, completions, finish)

    def test_one_finite_number_per_completion(self, built: Any) -> None:
        """`score` returns [B], float32, finite, on any device.

        The loop adds these numbers to token rewards; NaN would ruin the weights, and another shape would be broadcast.
        """
        _checked(built, self.rollout(self.completions))

    def test_no_gradient(self, built: Any) -> None:
        """Scores carry no gradient.

        The policy learns from them by advantages; a graph would only keep the source's activations in memory.
        """
        with torch.enable_grad():
            scores_B = built.score(self.rollout(self.completions))
        assert not scores_B.requires_grad, "wrap the computation in torch.no_grad()"

    def test_one_completion_alone(self, built: Any) -> None:
        """A batch of one has a score: the last batch of an evaluation may be that small."""
        _checked(built, self.rollout(self.completions[:1]))

    def test_hard_completions(self, built: Any) -> None:
        """Empty but for the stop token, blank, cut for length, in any script, with braces, very long: all are scored.

        A policy samples such texts in its first steps, and a run must not end because of one.
        """
        texts, finish = zip(*HARD_COMPLETIONS, (_endless(self.longest), "stop"), strict=True)
        _checked(built, self.rollout(texts, finish))

    def test_conversations(self, built: Any) -> None:
        """A prompt of chat messages is scored, or refused by an error of alignkit that says why.

        A `TypeError` from adding a tuple to a string would tell the user of a chat model nothing.
        """
        _scored_or_refused(built, self.rollout(self.completions, prompts=[CONVERSATION]))

    def test_rollout_without_log_probs(self, built: Any) -> None:
        """A sampler may know no log-probs; without them there are scores, or an error of alignkit that says why."""
        _scored_or_refused(built, replace(self.rollout(self.completions), sampler_logp_BT=None))

    def test_score_does_not_depend_on_the_batch(self, built: Any) -> None:
        """A completion scores the same alone and beside others, shorter and much longer ones.

        Padding that leaks into a score, or a mean over the batch, would reward a completion for its neighbours. A
        source that compares on purpose says so: `batch_relative` is true (`alignkit.protocols.BatchRelative`).
        """
        self._needs_determinism()
        if isinstance(built, BatchRelative) and built.batch_relative:
            pytest.skip("the source says that its scores are relative to the batch")
        texts = [*self.completions, _endless(min(self.longest, 600))]
        together_B = _checked(built, self.rollout(texts))
        for row in range(len(texts)):
            alone = _checked(built, _select(self.rollout(texts), [row]))
            self._same(alone, together_B[[row]], f"completion {row} scores otherwise alone than among others; {HINT}")

    def test_scores_follow_the_order(self, built: Any) -> None:
        """Scores come in the order of the completions, whatever that order is.

        Scores sorted by length for batching, and not sorted back, reward the wrong completions without a sign.
        """
        self._needs_determinism()
        texts = [*self.completions, self.completions[0] + self.completions[1]]
        whole = self.rollout(texts)
        order = [*range(1, len(texts)), 0][::-1]
        turned_B = _checked(built, _select(whole, order))
        self._same(turned_B, _checked(built, whole)[order], "scores do not follow the completions into another order")

    def test_same_call_same_scores(self, built: Any) -> None:
        """Scoring the same rollout twice gives the same scores (unless `noisy`), whatever was scored in between.

        Otherwise evaluation before and after training compares numbers of two different scales.
        """
        self._needs_determinism()
        first_B = _checked(built, self.rollout(self.completions)).clone()
        _checked(built, self.rollout([" something else entirely"]))
        self._same(
            _checked(built, self.rollout(self.completions)),
            first_B,
            "the same rollout scores otherwise the second time",
        )

    def test_earlier_prompts_do_not_matter(self, built: Any, rebuild: Callable[..., Any]) -> None:
        """A completion that was scored behind another prompt before scores as from a source that never saw it.

        Scores that are cached by the completion alone, or by its place, belong to the prompt that came first.
        """
        self._needs_determinism()
        _checked(built, self.rollout(self.completions))
        turned = self.rollout(self.completions, prompts=self.prompts[::-1])
        self._same(_checked(built, turned), _checked(rebuild(), turned), "an earlier call with other prompts counts")

    def test_builds_with_one_seed_agree(self, rebuild: Callable[..., Any]) -> None:
        """Two builds with the same seed score alike, call by call, also a `noisy` source.

        A run that is started again must find the rewards it had.
        """
        runs = []
        for turn in range(2):
            with global_seed(turn):  # what others draw in the meantime must not matter
                source = rebuild(seed=7)
                runs.append([_checked(source, self.rollout(self.completions)).clone() for _ in range(2)])
        for first_B, second_B in zip(*runs, strict=True):
            self._same(second_B, first_B, "two builds with seed 7 differ: draw from context.seed alone")

    def test_scores_are_told_apart(self, built: Any) -> None:
        """Completions of one prompt do not all score the same.

        A constant reward teaches nothing; mostly it means that the prompt is scored, or an empty text.
        """
        texts = [*self.completions, *(text for pair in self.better_than for text in pair)]
        scores = _checked(built, self.rollout(texts, prompts=self.prompts[:1])).tolist()
        assert max(scores) > min(scores), (
            f"all {len(texts)} completions of one prompt score {scores[0]}; if the source tells other texts apart, "
            "name them in `completions`"
        )

    def test_better_completions_score_higher(self, built: Any) -> None:
        """Each pair of `better_than` scores in its order."""
        if not self.better_than:
            pytest.skip("set better_than to pairs of completions (better, worse)")
        for better, worse in self.better_than:
            high, low = _checked(built, self.rollout([better, worse], prompts=self.prompts[:1])).tolist()
            assert high > low, f"{better!r} scores {high}, not more than {worse!r} with {low}"

    def test_another_tokenizer(self, built: Any) -> None:
        """Ids of a tokenizer that the source does not know (`tokenizer_id`) are not read: the texts are.

        Foreign ids look like any others, and a model fed with them scores noise.
        """
        self._needs_determinism()
        own = self.rollout(self.completions)
        size = len(encoder().tokenizer)
        foreign = replace(
            own,
            tokenizer_id="another",
            prompt_ids=tuple(tuple((i + 7) % size for i in ids) for ids in own.prompt_ids),
            completion_ids=tuple(tuple((i + 7) % size for i in ids) for ids in own.completion_ids),
        )
        self._same(_checked(built, foreign), _checked(built, own), "the same texts score otherwise with foreign ids")

    def test_rollout_is_left_as_it_was(self, built: Any) -> None:
        """The rollout is the same after scoring: the optimizer stage trains on the object that was scored."""
        rollout = self.rollout(self.completions)
        before = copy.deepcopy(rollout)
        built.score(rollout)
        changed = [f.name for f in fields(Rollout) if not _equal(getattr(rollout, f.name), getattr(before, f.name))]
        assert not changed, f"score changed {', '.join(changed)} in place: work on a copy"

    def test_earlier_scores_stay(self, built: Any) -> None:
        """What a call returned is not changed by the next one: the loop keeps scores of several batches."""
        first_B = built.score(self.rollout(self.completions))
        kept_B = first_B.clone()
        built.score(self.rollout(self.completions[::-1]))
        assert torch.equal(first_B, kept_B), "return a new tensor each time, not a buffer that is filled again"

    def test_global_random_state_is_left_alone(self, built: Any) -> None:
        """No global generator is seeded or drawn from.

        Otherwise the completions sampled after scoring depend on the reward source, and runs cannot be compared.
        """
        rollout = self.rollout(self.completions)
        with global_seed(12):
            before = global_states()
            built.score(rollout)
            assert_unused(before)

    def test_figures(self, built: Any) -> None:
        """`figures()`, where there is one, gives finite numbers under the same names after each call.

        Trackers draw a curve per name; a name with a number in it would begin a new curve at every step.
        """
        if not isinstance(built, ReportsFigures):
            pytest.skip("the source reports no figures (alignkit.protocols.ReportsFigures)")
        names = []
        for texts in (self.completions, self.completions[:2]):
            _checked(built, self.rollout(texts))
            figures = dict(built.figures())
            names.append(sorted(figures))
            for name, value in figures.items():
                assert isinstance(name, str)
                assert isinstance(value, int | float), f"{name} is {value!r}, not a number"
                assert math.isfinite(value), f"{name} is {value}"
        assert names[0] == names[1], f"the names changed from call to call: {names[0]}, {names[1]}"

    def test_writes_only_into_its_folder(
        self, rebuild: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Nothing is written into the folder where the user happens to stand; `context.folder` is the step's own."""
        with no_stray_files(tmp_path / "here", monkeypatch):
            rebuild().score(self.rollout(self.completions))

    def _needs_determinism(self) -> None:
        if self.noisy:
            pytest.skip("noisy: scores are drawn at random")

    def _same(self, found_B: Tensor, expected_B: Tensor, what: str) -> None:
        assert found_B.tolist() == pytest.approx(expected_B.tolist(), abs=self.tolerance, rel=self.tolerance), what


def _endless(characters: int) -> str:
    """A text of so many characters."""
    return (" and then he walks home" * (characters // 20 + 1))[:characters]


def _checked(source: Any, rollout: Rollout) -> Tensor:
    """The scores, [B], on the CPU, after a look at their form."""
    scores_B = source.score(rollout)
    assert isinstance(scores_B, Tensor), f"score returned {type(scores_B).__name__}, not a torch.Tensor"
    assert scores_B.shape == (len(rollout),), f"shape {tuple(scores_B.shape)} for {len(rollout)} completions"
    assert scores_B.dtype == torch.float32, f"{scores_B.dtype}: scores are float32"
    for text, value in zip(rollout.texts, scores_B.tolist(), strict=True):
        assert math.isfinite(value), f"the score of {text[:80]!r} is {value}"
    return scores_B.detach().cpu()


def _scored_or_refused(source: Any, rollout: Rollout) -> None:
    try:
        source.score(rollout)
    except AlignkitError:
        return
    except Exception as error:
        pytest.fail(
            f"{type(error).__name__}: {error}\nraise alignkit.UserError or alignkit.Fault with what is missing",
            pytrace=False,
        )
    _checked(source, rollout)


def _select(rollout: Rollout, rows: Sequence[int]) -> Rollout:
    """Some completions of a rollout, in a given order."""
    logp_BT = rollout.sampler_logp_BT
    longest = max(len(rollout.completion_ids[b]) for b in rows)
    return replace(
        rollout,
        prompts=tuple(rollout.prompts[b] for b in rows),
        prompt_ids=tuple(rollout.prompt_ids[b] for b in rows),
        completion_ids=tuple(rollout.completion_ids[b] for b in rows),
        texts=tuple(rollout.texts[b] for b in rows),
        finish=tuple(rollout.finish[b] for b in rows),
        group_B=rollout.group_B[list(rows)],
        sampler_logp_BT=None if logp_BT is None else logp_BT[list(rows), :longest],
    )


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.shape == b.shape and torch.equal(a, b)
    return bool(a == b)
