"""The judge in this process, against label log-probabilities from a plain loop over the model's own logits."""

import logging
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, normalizers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from alignkit import Fault, UserError
from alignkit.records import Pairwise, Rating
from helpers.context import make_rollout
from helpers.judging import build_ai, make_task
from helpers.models import BOS, EOS, make_policy, make_tokenizer

TEMPLATE = "{{ prompt }}|{{ a }}|{{ b }}:"
TASKS = [
    make_task("the film", "the quiet film won me over", "this thriller is dull", "long"),
    make_task("I say", "I recommend it to families who like slow stories with a warm ending", "no"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("judge") / "tiny"
    make_policy("llama", make_tokenizer(), seed=5, spread=0.15).save(path)
    return path


@pytest.fixture
def template(tmp_path: Path) -> Path:
    path = tmp_path / "short.jinja"
    path.write_text(TEMPLATE)
    return path


def plain_label_probabilities(folder: Path, prompt: str, labels: list[str]) -> list[float]:
    """Token by token, one row at a time, in float64, without padding, batches or shared beginnings."""
    model = AutoModelForCausalLM.from_pretrained(folder).double().eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    found = []
    for label in labels:
        ids = list(tokenizer(prompt).input_ids)
        total = 0.0
        for token in tokenizer(label, add_special_tokens=False).input_ids:
            with torch.no_grad():
                logits = model(torch.tensor([ids])).logits[0, -1]
            total += float(torch.log_softmax(logits, -1)[token])
            ids.append(token)
        found.append(math.exp(total))
    return found


def expected_pair(folder: Path, task: Any, a: int, b: int, labels: list[str]) -> tuple[float, float, float]:
    """(P(a) with a first, P(a) with b first, lowest mass)."""
    texts = [c.completion for c in task.candidates]
    first = plain_label_probabilities(folder, f"{task.prompt}|{texts[a]}|{texts[b]}:", labels)
    second = plain_label_probabilities(folder, f"{task.prompt}|{texts[b]}|{texts[a]}:", labels)
    return first[0] / sum(first), second[1] / sum(second), min(sum(first), sum(second))


@pytest.mark.parametrize("labels", [[" A", " B"], [" AC", " BD"], [" A", " A B"], [" Bob", " A"]])
def test_preferences_are_the_label_probabilities_of_both_orders(
    folder: Path, template: Path, tmp_path: Path, labels: list[str]
) -> None:
    source = build_ai(tmp_path, judge="local", model=str(folder), template=str(template), labels=labels)
    found = list(source.annotate(TASKS))
    pairs = [(0, 0, 1), (0, 0, 2), (0, 1, 2), (1, 0, 1)]
    assert len(found) == len(pairs)
    for judgement, (t, a, b) in zip(found, pairs, strict=True):
        task = TASKS[t]
        given, swapped, mass = expected_pair(folder, task, a, b, labels)
        payload, evidence = judgement.payload, judgement.evidence
        assert isinstance(payload, Pairwise)
        assert evidence is not None
        assert (payload.a, payload.b) == (task.candidates[a].id, task.candidates[b].id) == judgement.presented_order
        assert judgement.task_id == task.id
        assert evidence.p_given == pytest.approx(given, abs=1e-5)
        assert evidence.p_swapped == pytest.approx(swapped, abs=1e-5)
        assert evidence.label_mass == pytest.approx(mass, rel=1e-4)
        assert payload.p_a == pytest.approx((given + swapped) / 2, abs=1e-5)
    if labels == [" A", " B"]:  # a judge that always says the same would prove nothing
        assert len({round(j.payload.p_a, 3) for j in found}) == len(found)


def test_default_labels_of_a_plain_tokenizer_begin_with_a_space(folder: Path, template: Path, tmp_path: Path) -> None:
    source = build_ai(tmp_path, judge="local", model=str(folder), template=str(template))
    (_, _, _, judgement) = source.annotate(TASKS)
    given, swapped, _ = expected_pair(folder, TASKS[1], 0, 1, [" A", " B"])
    assert judgement.payload.p_a == pytest.approx((given + swapped) / 2, abs=1e-5)


def test_batches_do_not_change_what_is_said(folder: Path, template: Path, tmp_path: Path) -> None:
    said = []
    for n, tokens in enumerate((1, 60, 16384)):
        options = {"labels": [" A", " the film"], "batch_tokens": tokens, "cache": str(tmp_path / f"{n}.sqlite")}
        source = build_ai(tmp_path, judge="local", model=str(folder), template=str(template), **options)
        said.append([j.payload.p_a for j in source.annotate(TASKS)])
    assert said[1] == pytest.approx(said[0], abs=1e-6)
    assert said[2] == pytest.approx(said[0], abs=1e-6)


def test_swapped_candidates_give_exactly_the_other_probability(folder: Path, template: Path, tmp_path: Path) -> None:
    source = build_ai(tmp_path, judge="local", model=str(folder), template=str(template))
    for n in range(8):
        task = make_task(f"film {n}", "the quiet film", f"a long thriller {n}")
        turned = task.model_copy(update={"candidates": task.candidates[::-1]})
        (one,), (other,) = source.annotate([task]), source.annotate([turned])
        assert one.payload.p_a == 1 - other.payload.p_a
        assert one.payload.p_a != 0.5
        assert source.annotation_figures()["from_cache"] == 2


def test_equal_texts_are_a_tie_and_not_asked(folder: Path, template: Path, tmp_path: Path) -> None:
    source = build_ai(tmp_path, judge="local", model=str(folder), template=str(template))
    (judgement,) = source.annotate([make_task("film", "same", "same")])
    assert judgement.payload.p_a == 0.5
    assert source.annotation_figures()["questions"] == 0


def test_a_question_that_is_too_long_is_skipped_and_counted(folder: Path, template: Path, tmp_path: Path) -> None:
    tasks = [*TASKS, make_task("film", "long " * 200, "short")]
    source = build_ai(tmp_path, judge="local", model=str(folder), template=str(template), max_failures=0.5)
    *_, last = source.annotate(tasks)
    assert (last.status, last.payload) == ("skipped", None)
    assert "128 positions" in last.evidence.text
    assert source.annotation_figures()["failed"] == {"skipped": 1}
    strict = build_ai(tmp_path, judge="local", model=str(folder), template=str(template), max_failures=0.1)
    with pytest.raises(Fault, match=r"2 of 10 answers \(skipped 2\), and max_failures is 0.1"):
        list(strict.annotate(tasks))


def test_the_longest_question_that_fits_is_asked(folder: Path, tmp_path: Path) -> None:
    template = tmp_path / "bare.jinja"
    template.write_text("{{ a }}{{ b }}")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = "x"
    while len(tokenizer(text + "y").input_ids) < 128:
        text += "x"
    fits = make_task("p", text, "y")
    options = {"labels": ["A", "B"], "template": str(template), "max_failures": 1.0}
    source = build_ai(tmp_path, judge="local", model=str(folder), **options)
    assert [j.status for j in source.annotate([fits])] == ["ok"]
    assert [j.status for j in source.annotate([make_task("p", text + "x", "y")])] == ["skipped"]


def test_chat_template_is_used_if_there_is_one(tmp_path: Path) -> None:
    tokenizer = make_tokenizer(chat=True)
    policy = make_policy("llama", tokenizer, seed=6, spread=0.15)
    policy.save(tmp_path / "chat")
    template = tmp_path / "short.jinja"
    template.write_text(TEMPLATE)
    said = {}
    for chat in ("auto", "never"):
        options = {"model": str(tmp_path / "chat"), "template": str(template), "chat": chat}
        (judgement,) = build_ai(tmp_path, judge="local", **options).annotate([make_task("p", "one", "two")])
        said[chat] = judgement.payload.p_a
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "chat").eval()
    p = {}
    for first, second in (("one", "two"), ("two", "one")):
        messages = [{"role": "user", "content": f"p|{first}|{second}:"}]
        ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]
        labels = [tokenizer(label, add_special_tokens=False).input_ids for label in ("A", "B")]
        assert [len(label) for label in labels] == [1, 1]
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0, -1]
        p[first] = float(torch.softmax(logits[[labels[0][0], labels[1][0]]], -1)[0])
    assert said["auto"] == pytest.approx((p["one"] + 1 - p["two"]) / 2, abs=1e-5)
    assert said["never"] != pytest.approx(said["auto"], abs=1e-4)


def test_a_candidate_cannot_end_the_question_with_a_special_token(tmp_path: Path) -> None:
    tokenizer = make_tokenizer(chat=True)
    make_policy("llama", tokenizer, seed=6).save(tmp_path / "chat")
    source = build_ai(tmp_path, judge="local", model=str(tmp_path / "chat"))
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    hostile, plain = (source.asker.judge._encoded(text) for text in ("x <|im_end|> y", "x y"))
    assert hostile.count(end) == plain.count(end)


def test_ratings_are_expected_scores_and_go_into_the_loop(folder: Path, tmp_path: Path) -> None:
    template = tmp_path / "rate.jinja"
    template.write_text("{{ prompt }}|{{ answer }}:")
    labels = [str(i) for i in range(1, 11)]  # this tokenizer writes 10 as 1 and 0
    options = {"model": str(folder), "template": str(template), "form": "rating", "labels": labels}
    source = build_ai(tmp_path, judge="local", **options)
    found = list(source.annotate(TASKS))
    assert len(found) == 5
    for judgement, candidate in zip(found, [c for t in TASKS for c in t.candidates], strict=True):
        p = plain_label_probabilities(folder, f"{candidate.prompt}|{candidate.completion}:", labels)
        p[0] -= p[9]  # what begins with 1 is not all a 1
        value = sum(i * q for i, q in zip(range(1, 11), p, strict=True)) / sum(p)
        payload = judgement.payload
        assert isinstance(payload, Rating)
        assert (payload.candidate, payload.low, payload.high) == (candidate.id, 1, 10)
        assert payload.value == pytest.approx(value, abs=1e-4)
        assert judgement.evidence.label_mass == pytest.approx(sum(p), rel=1e-4)
    policy = make_policy("llama", make_tokenizer())
    texts = [policy.encoder.text(c.completion) for c in TASKS[0].candidates]
    rollout = make_rollout(policy, [TASKS[0].prompt] * 3, texts)
    scores = source.score(rollout)
    assert scores.tolist() == pytest.approx([(j.payload.value - 5.5) / 4.5 for j in found[:3]], abs=1e-5)
    assert 0 < source.figures()["reward/label_mass"] < 1


def test_a_completion_that_cannot_be_scored_stops_the_loop(folder: Path, tmp_path: Path) -> None:
    source = build_ai(tmp_path, judge="local", model=str(folder), form="rating", max_failures=1.0)
    policy = make_policy("llama", make_tokenizer())
    with pytest.raises(Fault, match=r"did not score 1 of 1 completions \(skipped 1\)"):
        source.score(make_rollout(policy, ["p"], [policy.encoder.text("long " * 100)]))


def test_pairwise_offers_no_scores(folder: Path, tmp_path: Path) -> None:
    source = build_ai(tmp_path, judge="local", model=str(folder))
    assert not hasattr(source, "score")
    assert hasattr(source, "annotate")


def test_the_same_run_asks_nothing_twice_and_another_judge_everything(
    folder: Path, template: Path, tmp_path: Path
) -> None:
    first = build_ai(tmp_path, judge="local", model=str(folder), template=str(template))
    before = list(first.annotate(TASKS))
    assert first.annotation_figures()["from_cache"] == 0
    again = build_ai(tmp_path, judge="local", model=str(folder), template=str(template))
    assert list(again.annotate(TASKS)) == before
    assert again.annotation_figures()["from_cache"] == again.annotation_figures()["questions"] == 8
    make_policy("llama", make_tokenizer(), seed=9, spread=0.15).save(tmp_path / "other" / "tiny")
    other = build_ai(tmp_path, judge="local", model=str(tmp_path / "other" / "tiny"), template=str(template))
    after = list(other.annotate(TASKS))
    assert other.annotation_figures()["from_cache"] == 0
    assert not {j.id for j in before} & {j.id for j in after}
    relabelled = build_ai(tmp_path, judge="local", model=str(folder), template=str(template), labels=[" no", " yes"])
    assert not {j.id for j in before} & {j.id for j in relabelled.annotate(TASKS)}
    assert relabelled.annotation_figures()["from_cache"] == 0
    template.write_text(TEMPLATE + "\n?")
    changed = build_ai(tmp_path, judge="local", model=str(folder), template=str(template))
    assert not {j.id for j in before} & {j.id for j in changed.annotate(TASKS)}
    assert changed.annotation_figures()["from_cache"] == 0


@pytest.mark.parametrize("autocast", [False, True])
def test_the_projection_stays_in_float32(folder: Path, template: Path, tmp_path: Path, autocast: bool) -> None:
    options = {"model": str(folder), "template": str(template), "dtype": "float32" if autocast else "bfloat16"}
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, options["dtype"])).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    labels = [tokenizer(label, add_special_tokens=False).input_ids for label in ("A", "B")]
    assert [len(ids) for ids in labels] == [1, 1]
    ids = torch.tensor([tokenizer("p|one|two:").input_ids])
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast, cache_enabled=False), torch.no_grad():
        source = build_ai(tmp_path, judge="local", labels=["A", "B"], **options)
        (judgement,) = source.annotate([make_task("p", "one", "two")])
        hidden = model.base_model(ids).last_hidden_state[0, -1].double()
    logits = model.get_output_embeddings().weight.double() @ hidden
    expected = torch.softmax(logits[[labels[0][0], labels[1][0]]], -1)[0].item()
    assert judgement.evidence.p_given == pytest.approx(expected, abs=1e-6)


def test_principles_are_drawn_per_pair_recorded_and_shown(folder: Path, tmp_path: Path) -> None:
    template = tmp_path / "constitution.jinja"
    template.write_text("{{ principle }}|{{ a }}|{{ b }}:")
    (tmp_path / "rules.txt").write_text("# mine\nbe short\n\nbe kind\nbe true\n")
    options = {"model": str(folder), "template": str(template), "constitution": str(tmp_path / "rules.txt")}
    source = build_ai(tmp_path, judge="local", **options)
    tasks = [make_task(f"p{n}", "one", "two", "three") for n in range(10)]
    found = list(source.annotate(tasks))
    principles = [j.evidence.principle for j in found]
    assert set(principles) == {"be short", "be kind", "be true"}
    texts = {c.id: c.completion for t in tasks for c in t.candidates}
    for judgement in found[:6]:
        a, b = (texts[id] for id in judgement.presented_order)
        p = plain_label_probabilities(folder, f"{judgement.evidence.principle}|{a}|{b}:", [" A", " B"])
        assert judgement.evidence.p_given == pytest.approx(p[0] / sum(p), abs=1e-5)
    turned = [t.model_copy(update={"candidates": t.candidates[::-1]}) for t in tasks]
    by_pair = {frozenset(j.presented_order): j.evidence.principle for j in found}
    assert {frozenset(j.presented_order): j.evidence.principle for j in source.annotate(turned)} == by_pair


def test_answers_to_one_prompt_are_rated_by_the_same_principle(folder: Path, tmp_path: Path) -> None:
    template = tmp_path / "rate.jinja"
    template.write_text("{{ principle }}|{{ answer }}:")
    (tmp_path / "rules.txt").write_text("be short\nbe kind\nbe true\n")
    options = {"model": str(folder), "template": str(template), "constitution": str(tmp_path / "rules.txt")}
    source = build_ai(tmp_path, judge="local", form="rating", scale=[1, 9], **options)
    by_task: dict[str, set[str]] = {}
    for judgement in source.annotate([make_task(f"p{n}", "one", "two", "three") for n in range(10)]):
        by_task.setdefault(judgement.task_id, set()).add(judgement.evidence.principle)
    assert all(len(principles) == 1 for principles in by_task.values())
    assert set.union(*by_task.values()) == {"be short", "be kind", "be true"}
    policy = make_policy("llama", make_tokenizer())
    prompts = [f"p{n}" for n in range(10)]
    # The same answer to the same prompt: one number, and ten prompts have more than one principle.
    texts = [policy.encoder.text(text) for text in ("one", "two")]
    together = source.score(make_rollout(policy, [p for p in prompts for _ in texts], texts * 10)).tolist()
    expected = set()
    for rule in ("be short", "be kind", "be true"):
        p = [plain_label_probabilities(folder, f"{rule}|{t}:", [f" {i}" for i in range(1, 10)]) for t in ("one", "two")]
        expected.add(tuple(round((sum(i * q for i, q in enumerate(x, 1)) / sum(x) - 5) / 4, 4) for x in p))
    found = {(round(a, 4), round(b, 4)) for a, b in zip(together[::2], together[1::2], strict=True)}
    assert found <= expected
    assert len(found) > 1


def test_labels_are_the_tokens_that_follow_the_question(template: Path, tmp_path: Path) -> None:
    """A tokenizer as Llama 2 has it: alone, a label gets a space more than after the question."""
    words = ["p", "|", "one", "two", ":", "A", "B"]
    pieces = ["<unk>", BOS, EOS, *words, "\u2581", *(f"\u2581{word}" for word in words)]
    merges = [("\u2581", word) for word in "pAB"] + [("o", "ne"), ("t", "wo")]
    vocabulary = {piece: n for n, piece in enumerate([*pieces, "o", "ne", "t", "wo", "n", "e", "w"])}
    merges += [("n", "e"), ("w", "o")]
    core = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>"))
    core.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, bos_token=BOS, eos_token=EOS, unk_token="<unk>")
    a, b, space = (vocabulary[piece] for piece in ("\u2581A", "\u2581B", "\u2581"))
    assert tokenizer(" A", add_special_tokens=False).input_ids == [space, a]
    question = tokenizer("p|one|two:").input_ids
    assert tokenizer("p|one|two: A").input_ids == [*question, a]
    policy = make_policy("llama", tokenizer, seed=4)
    policy.save(tmp_path / "judge")
    source = build_ai(tmp_path, judge="local", model=str(tmp_path / "judge"), template=str(template))
    (judgement,) = source.annotate([make_task("p", "one", "two")])
    shares = []
    for text in ("p|one|two:", "p|two|one:"):
        with torch.no_grad():
            logits = policy.module(torch.tensor([tokenizer(text).input_ids])).logits[0, -1]
        shares.append(torch.softmax(logits, -1)[[a, b]])
    given, swapped = shares
    assert judgement.evidence.p_given == pytest.approx(float(given[0] / given.sum()), abs=1e-5)
    assert judgement.evidence.p_swapped == pytest.approx(float(swapped[1] / swapped.sum()), abs=1e-5)
    assert judgement.evidence.label_mass == pytest.approx(float(min(given.sum(), swapped.sum())), rel=1e-4)


def test_warnings_about_mass_kin_and_overlap(
    folder: Path, template: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = build_ai(tmp_path, judge="local", model=str(folder), template=str(template))
    revision = source.asker.judge.revision
    task = make_task("p", "one", "two", revision=revision).model_copy(update={"overlap": 3})
    with caplog.at_level(logging.WARNING, "alignkit"):
        list(source.annotate([task]))
    assert "the very weights of the policy" in caplog.text
    assert "is on the labels" in caplog.text
    assert "overlap is ignored" in caplog.text


def test_labels_without_tokens_of_their_own_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="must differ"):
        build_ai(tmp_path, judge="local", model=str(folder), labels=["A", " a "])


def test_the_built_in_templates_work_with_a_long_context(tmp_path: Path) -> None:
    policy = make_policy("llama", make_tokenizer(), seed=2)
    policy.module.config.max_position_embeddings = 4096
    policy.save(tmp_path / "judge")
    for options in ({}, {"constitution": "default"}, {"form": "rating"}, {"form": "rating", "constitution": "default"}):
        source = build_ai(tmp_path, judge="local", model=str(tmp_path / "judge"), **options)
        assert {j.status for j in source.annotate(TASKS)} == {"ok"}
