"""Each data format on rows written by hand: what it gives, and what it says about rows it cannot use."""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignkit.components import Component
from alignkit.data.rows import BadRow
from alignkit.errors import UserError
from alignkit.protocols import SourceRow
from alignkit.records import Demonstration, LabelledCompletion, PreferencePair, Prompt, Record, Text
from alignkit.testing.data_format import read
from alignkit_plugins.data_formats.plugin import alignkit_data_formats
from alignkit_plugins.data_formats.preference import common_text
from alignkit_plugins.data_formats.text import TextConfig, TextFormat

FORMATS: dict[str, Component] = {c.name: c for c in alignkit_data_formats()}


def records(name: str, rows: Sequence[Any], **options: Any) -> list[tuple[str, Record]]:
    component = FORMATS[name]
    built = component.build(component.config.model_validate(options), None)
    assert built.generates is False
    return list(built.records(SourceRow(f"f.jsonl:{n}", row) for n, row in enumerate(rows, 1)))


def problem(name: str, row: Any, **options: Any) -> str:
    with pytest.raises(BadRow) as caught:
        records(name, [row], **options)
    return caught.value.problem


def chat(*turns: str) -> list[dict[str, str]]:
    """`u:…`, `a:…`, `s:…`."""
    roles = {"u": "user", "a": "assistant", "s": "system"}
    return [{"role": roles[t[0]], "content": t[2:]} for t in turns]


def test_the_eight_formats_are_registered() -> None:
    assert sorted(FORMATS) == [
        "classes", "hh", "labelled", "messages", "preference", "prompt_completion", "prompts", "text",
    ]  # fmt: skip
    assert all(c.summary for c in FORMATS.values())


# text


def test_documents_end_at_blank_lines_and_at_the_end_of_a_file() -> None:
    lines = ["", "one", "more of one", " ", "", "two"]
    assert [r for _, r in records("text", lines)] == [Text(text="one\nmore of one"), Text(text="two")]
    component = FORMATS["text"]
    built = component.build(component.config(), None)
    two_files = [SourceRow("a.txt:1", "end of a"), SourceRow("b.txt:1", "start of b")]
    assert [r.text for _, r in built.records(two_files)] == ["end of a", "start of b"]


def test_each_line_or_a_column_can_be_a_document() -> None:
    assert [r for _, r in records("text", ["one", "", "two"], separator="line")] == [
        Text(text="one"),
        Text(text="two"),
    ]
    assert records("text", [{"body": "b"}], text_field="body") == [("texts", Text(text="b"))]
    assert problem("text", {"txt": "b"}) == "column 'text' is missing (did you mean 'txt'?)"
    assert problem("text", {"text": "  \n"}) == "'text' is empty"
    assert problem("text", {"text": 3}) == "column 'text' is a number, not text or a list of messages"
    assert problem("text", {"text": chat("u:x")}) == "column 'text' is a list of messages, not text"


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\n"), max_size=5)))
def test_no_line_of_text_is_lost(lines: list[str]) -> None:
    texts = [r.text for _, r in records("text", lines) if isinstance(r, Text)]
    assert "\n".join(texts).split("\n") == ([line for line in lines if line.strip()] or [""])


@pytest.mark.parametrize(("separator", "texts"), [("line", ["a", "b", "c", "d"]), ("blank_line", ["a\nb", "c\nd"])])
def test_a_damaged_line_costs_no_other_line(separator: str, texts: list[str]) -> None:
    config = TextConfig.model_validate({"separator": separator})
    damaged = [BadRow("not UTF-8", where=f"a.txt:{n}") for n in range(3)]
    found = read(TextFormat(config), ["a", damaged[0], "b", damaged[1], "", "c", damaged[2], "d"])
    assert found.bad == damaged
    assert [r.text for _, r in found.records if isinstance(r, Text)] == texts


# demonstrations


def test_prompt_and_completion() -> None:
    rows = [{"q": "Q", "a": " A"}, {"q": "Q", "a": " B"}, {"q": chat("u:Q"), "a": chat("a:A")}]
    found = records("prompt_completion", rows, prompt_field="q", completion_field="a", also_prompts=True)
    assert [part for part, _ in found] == [
        "demonstrations",
        "prompts",
        "demonstrations",
        "demonstrations",
        "prompts",
    ]
    assert found[0][1] == Demonstration(prompt="Q", completion=" A")
    assert found[1][1] == Prompt(prompt="Q")
    assert found[3][1] == Demonstration.model_validate({"prompt": chat("u:Q"), "completion": chat("a:A")})


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"prompt": "Q"}, "column 'completion' is missing; the row has 'prompt'"),
        ({"prompt": "Q", "completions": "A"}, "column 'completion' is missing (did you mean 'completions'?)"),
        ({"prompt": "Q", "completion": None}, "column 'completion' is null"),
        ({"prompt": "Q", "completion": " "}, "'completion' is empty"),
        ({"prompt": "", "completion": "A"}, "'prompt' is empty"),
        ({"prompt": [], "completion": chat("a:A")}, "'prompt' is empty"),
        (
            {"prompt": "Q", "completion": True},
            "column 'completion' is true or false, not text or a list of messages",
        ),
        (
            {"prompt": "Q", "completion": chat("a:A")},
            "'prompt' and 'completion': one is text and the other a list of messages",
        ),
        ("plain", "this is a text, a row is an object with columns (format `text` reads plain text)"),
        ({}, "column 'prompt' is missing; the row has no column"),
    ],
)
def test_bad_demonstrations(row: Any, expected: str) -> None:
    assert problem("prompt_completion", row) == expected


def test_the_last_turn_of_a_chat_is_the_completion() -> None:
    turns = chat("s:be kind", "u:Q", "a:A", "u:Q2", "a:A2")
    found = records("messages", [{"messages": turns}], also_prompts=True)
    assert found[0][1] == Demonstration.model_validate({"prompt": turns[:-1], "completion": turns[-1:]})
    assert found[1] == ("prompts", Prompt.model_validate({"prompt": turns[:-1]}))


@pytest.mark.parametrize(
    ("turns", "expected"),
    [
        (chat("u:Q"), "the last message has the role 'user', a demonstration ends with 'assistant'"),
        (chat("u:Q", "a: "), "'completion' is empty"),
        (chat("a:A"), "'prompt' is empty"),
        ([], "column 'messages' is an empty list"),
        ("Q", "column 'messages' is a text, not a list of messages"),
        (["Q"], "message 1 of 'messages' is a text, not an object with role and content"),
        (
            [{"from": "human", "value": "Q"}],
            "'role' of message 1 of 'messages' is missing; it has 'from', 'value'; "
            "write ShareGPT's from (human, gpt) and value as role (user, assistant) and content",
        ),
        ([{"role": "user", "content": None}], "'content' of message 1 of 'messages' is null"),
        (
            [{"role": "asistant", "content": "A"}],
            "message 1 of 'messages' has the role 'asistant' (did you mean 'assistant'?)",
        ),
        (
            [{"role": "user", "content": "Q", "image": "x.png", "name": None}],
            "message 1 of 'messages' has 'image', which would be lost: only role and content are kept",
        ),
    ],
)
def test_bad_chats(turns: Any, expected: str) -> None:
    assert problem("messages", {"messages": turns}) == expected


# labelled completions


def test_labelled_completions_in_the_form_of_trl() -> None:
    rows = [
        {"prompt": "Q", "completion": " A", "label": True},
        {"prompt": "Q", "completion": " B", "label": False},
        {"prompt": chat("u:Q"), "completion": chat("a:A"), "label": True},
    ]
    found = records("labelled", rows)
    assert [part for part, _ in found] == ["labels"] * 3
    assert [r for _, r in found] == [LabelledCompletion.model_validate(row) for row in rows]
    also = records("labelled", rows, also_demonstrations=True, also_prompts=True)
    parts = ["labels", "demonstrations", "prompts", "labels", "labels", "demonstrations", "prompts"]
    assert [part for part, _ in also] == parts
    assert next(r for part, r in also if part == "demonstrations") == Demonstration(prompt="Q", completion=" A")
    other = records(
        "labelled", [{"q": "", "a": "A", "ok": False}], prompt_field="q", completion_field="a", label_field="ok"
    )
    assert other == [("labels", LabelledCompletion(prompt="", completion="A", label=False))]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"prompt": "Q", "completion": "A"}, "column 'label' is missing; the row has 'prompt', 'completion'"),
        ({"prompt": "Q", "completion": "A", "label": 1}, "column 'label' is a number, not true or false"),
        ({"prompt": "Q", "completion": "A", "label": "good"}, "column 'label' is a text, not true or false"),
        ({"prompt": "Q", "completion": " ", "label": True}, "'completion' is empty"),
        ({"prompt": [], "completion": chat("a:A"), "label": True}, "'prompt' is empty"),
        (
            {"prompt": "Q", "completion": chat("a:A"), "label": True},
            "'prompt' and 'completion': one is text and the other a list of messages",
        ),
    ],
)
def test_bad_labelled_completions(row: Any, expected: str) -> None:
    assert problem("labelled", row) == expected


# prompts


def test_prompts_come_from_every_kind_of_row() -> None:
    rows = [
        {"prompt": "Q", "completion": "A"},
        {"messages": chat("u:Q")},
        {"messages": chat("u:Q", "a:A")},
        {"prompt": chat("u:Q")},
    ]
    as_chat = Prompt.model_validate({"prompt": chat("u:Q")})
    assert [r for _, r in records("prompts", rows)] == [Prompt(prompt="Q"), as_chat, as_chat, as_chat]
    expected = "column 'prompt' is missing; the row has 'question'; set prompt_field: question"
    assert problem("prompts", {"question": "Q"}) == expected
    assert problem("prompts", {"prompt": " "}) == "'prompt' is empty"
    assert problem("prompts", {"messages": chat("a:A")}) == "'prompt' is empty"


# preferences


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"prompt": "Q", "chosen": " A", "rejected": " B"}, ("Q", " A", " B")),
        ({"prompt": "", "chosen": "A", "rejected": "B"}, ("", "A", "B")),
        (
            {"chosen": "The sky is blue.", "rejected": "The sky is bleak."},
            ("The sky is", " blue.", " bleak."),
        ),
        ({"chosen": "great", "rejected": "grim"}, ("", "great", "grim")),
        (
            {"prompt": chat("u:Q"), "chosen": chat("a:A"), "rejected": chat("a:B")},
            (chat("u:Q"), chat("a:A"), chat("a:B")),
        ),
        (
            {"chosen": chat("u:Q", "a:A", "u:C", "a:D"), "rejected": chat("u:Q", "a:B")},
            (chat("u:Q"), chat("a:A", "u:C", "a:D"), chat("a:B")),
        ),
    ],
)
def test_the_forms_that_trl_reads(row: Any, expected: tuple[Any, Any, Any]) -> None:
    prompt, chosen, rejected = expected
    ((part, pair),) = records("preference", [row])
    assert part == "preferences"
    assert pair == PreferencePair.model_validate({"prompt": prompt, "chosen": chosen, "rejected": rejected})


def test_margin_and_soft_labels() -> None:
    row = {"prompt": "Q", "chosen": "A", "rejected": "B", "margin": 2, "yes": 3, "no": 1, "tie": 2}
    votes = {"votes_for": "yes", "votes_against": "no", "votes_tied": "tie"}
    ((_, pair),) = records("preference", [row], **votes)
    assert isinstance(pair, PreferencePair)
    assert pair.margin == 2.0
    assert pair.p == pytest.approx(4 / 6)
    ((_, plain),) = records("preference", [row], margin_field=None)
    assert isinstance(plain, PreferencePair)
    assert (plain.margin, plain.p) == (0.0, 1.0)
    assert problem("preference", {**row, "margin": "2"}) == "column 'margin' is a text, not a number"
    assert problem("preference", {**row, "margin": float("inf")}) == "column 'margin' is inf, not a finite number"
    assert problem("preference", {**row, "no": -1}, **votes) == ("column 'no' is -1, a number of votes is not negative")
    assert problem("preference", {**row, "yes": 0, "no": 0, "tie": 0}, **votes) == (
        "no votes: 'yes', 'no', 'tie' are all 0"
    )
    assert problem("preference", row, votes_for="ja") == (
        "column 'ja' is missing; the row has 'prompt', 'chosen', 'rejected', 'margin', 'yes', 'no', 'tie'"
    )


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"prompt": "Q", "chosen": "A"}, "column 'rejected' is missing; the row has 'prompt', 'chosen'"),
        ({"prompt": "Q", "chosen": "", "rejected": "B"}, "'chosen' is empty"),
        ({"prompt": "Q", "chosen": "A", "rejected": "\n"}, "'rejected' is empty"),
        ({"prompt": "Q", "chosen": "A", "rejected": "A"}, "'chosen' and 'rejected' are equal"),
        ({"prompt": None, "chosen": "A", "rejected": "B"}, "column 'prompt' is null"),
        ({"prompt": [], "chosen": chat("a:A"), "rejected": chat("a:B")}, "'prompt' is empty"),
        (
            {"prompt": "Q", "chosen": chat("a:A"), "rejected": chat("a:B")},
            "'prompt' and 'chosen': one is text and the other a list of messages",
        ),
        (
            {"prompt": "Q", "chosen": "A", "rejected": chat("a:B")},
            "'chosen' and 'rejected': one is text and the other a list of messages",
        ),
        ({"chosen": chat("u:Q", "a:A"), "rejected": chat("u:R", "a:A")}, "'prompt' is empty"),
        ({"chosen": chat("u:Q", "a:A"), "rejected": chat("u:Q")}, "'rejected' is empty"),
    ],
)
def test_bad_pairs(row: Any, expected: str) -> None:
    assert problem("preference", row) == expected


def test_mixed_forms_name_both_lines() -> None:
    rows = [{"prompt": "Q", "chosen": "A", "rejected": "B"}, {"chosen": "x A", "rejected": "x B"}]
    with pytest.raises(BadRow) as caught:
        records("preference", rows)
    assert caught.value.problem == (
        "mixed forms: this row has implicit prompt, texts, the first row (f.jsonl:1) has explicit prompt, texts"
    )


def test_a_prompt_is_given_once() -> None:
    rows = [{"prompt": q, "chosen": c, "rejected": "B"} for q, c in (("Q", "A"), ("Q", "C"), ("", "A"))]
    assert [part for part, _ in records("preference", rows, also_prompts=True)] == [
        "preferences", "prompts", "preferences", "preferences",
    ]  # fmt: skip


words = st.text(alphabet="ab \n.", max_size=12)


@given(start=words, a=words, b=words)
def test_an_implicit_prompt_is_common_and_ends_at_a_word(start: str, a: str, b: str) -> None:
    chosen, rejected = start + a, start + b
    cut = common_text(chosen, rejected)
    assert chosen[:cut] == rejected[:cut]
    if cut:
        assert chosen[cut].isspace()
        assert rejected[cut].isspace()
    same = next((n for n, (x, y) in enumerate(zip(chosen, rejected, strict=False)) if x != y), None)
    if same is not None:
        # Nothing but the piece of a word and the white space before it is cut back.
        assert len(chosen[cut:same].split()) <= 1


# hh


def test_transcripts_become_messages() -> None:
    start = "\n\nHuman: Hi:\n\nwho?\n\nAssistant: Me.\n\nHuman: Really?\n\nAssistant:"
    found = records(
        "hh",
        [{"chosen": start + " Yes.", "rejected": start + " No. "}],
        also_demonstrations=True,
        also_prompts=True,
    )
    prompt = chat("u:Hi:\n\nwho?", "a:Me.", "u:Really?")
    assert found == [
        (
            "preferences",
            PreferencePair.model_validate({"prompt": prompt, "chosen": chat("a:Yes."), "rejected": chat("a:No.")}),
        ),
        ("demonstrations", Demonstration.model_validate({"prompt": prompt, "completion": chat("a:Yes.")})),
        ("prompts", Prompt.model_validate({"prompt": prompt})),
    ]


@pytest.mark.parametrize(
    ("chosen", "rejected", "expected"),
    [
        ("H: Q|A: x", "H: Q|A:", "the last answer of 'rejected' is empty"),
        ("H: Q|A: x", "H: Q|A: x", "'chosen' and 'rejected' are equal"),
        (
            "H: Q|A: x|H: R|A: y",
            "H: Q|A: z|H: R|A: y",
            "the contexts of 'chosen' and 'rejected' differ before the last answer, from turn 2 on",
        ),
        ("H: Q|A: x", "H: Q", "'rejected' does not end with an answer of 'Assistant:'"),
        ("A: x", "A: y", "'chosen' does not begin with 'Human:'"),
        ("hello", "H: Q|A: y", "'chosen' does not begin with 'Human:'"),
        ("", "H: Q|A: y", "'chosen' does not begin with 'Human:'"),
    ],
)
def test_bad_transcripts(chosen: str, rejected: str, expected: str) -> None:
    def full(short: str) -> str:
        turns = short.replace("H:", "Human:").replace("A:", "Assistant:").split("|")
        return "".join("\n\n" + turn for turn in turns)

    assert problem("hh", {"chosen": full(chosen), "rejected": full(rejected)}) == expected


# classes


def test_classes_become_pairs_with_the_higher_label_chosen() -> None:
    label = {f"t{n}": n % 3 for n in range(12)}
    rows = [{"text": text, "label": n} for text, n in label.items()]
    pairs = [r for _, r in records("classes", rows, pairs=20, seed=1) if isinstance(r, PreferencePair)]
    assert len({(p.chosen, p.rejected) for p in pairs}) == 20
    assert all(p.prompt == "" and label[str(p.chosen)] > label[str(p.rejected)] for p in pairs)
    assert [r for _, r in records("classes", rows, pairs=20, seed=1)] == pairs
    assert [r for _, r in records("classes", rows, pairs=20, seed=2)] != pairs


def test_all_pairs_there_are_can_be_asked_for_and_not_one_more() -> None:
    rows = [{"text": f"t{n}", "label": n % 2} for n in range(6)]
    assert len(records("classes", rows, pairs=9)) == 9
    with pytest.raises(UserError, match=r"10 pairs are asked for, the texts make 9: 6 different texts with 2 labels"):
        records("classes", rows, pairs=10)
    with pytest.raises(UserError, match="the texts make 0"):
        records("classes", rows[::2], pairs=1)


def test_bad_labels() -> None:
    assert problem("classes", {"text": "t", "label": "pos"}, pairs=1) == "column 'label' is a text, not a number"
    assert problem("classes", {"text": "t", "label": True}, pairs=1) == (
        "column 'label' is true or false, not a number"
    )
    with pytest.raises(BadRow, match=r"the same text has label 1 here and 0 in f\.jsonl:1"):
        records("classes", [{"text": "t", "label": 0}, {"text": "t", "label": 1}], pairs=1)


@pytest.mark.parametrize(
    ("form", "row", "advice"),
    [
        ("prompt_completion", {"question": "Q", "answer": "A"}, "; set prompt_field: question"),
        ("prompt_completion", {"prompt": "Q", "answer": "A"}, "; set completion_field: answer"),
        ("prompt_completion", {"instruction": "Q", "input": "", "output": "A"}, "; set prompt_field: instruction"),
        ("messages", {"conversations": []}, "; set messages_field: conversations"),
        ("prompt_completion", {"messages": []}, "; the format `messages` reads chats"),
        ("prompt_completion", {"chat": []}, "; the format `messages` reads chats, with messages_field: chat"),
        (
            "preference",
            {"data": [{"chosen": "A"}]},
            "; the rows stand inside 'data': write that list alone to the file",
        ),
        ("preference", {"data": [{"other": "A"}]}, "; the row has 'data'"),
        ("preference", {"chosen": {"0": "A", "1": "B"}, "rejected": "C"}, "lines=True)"),
        ("preference", {"chosen": {"a": "A"}, "rejected": "C"}, "not text or a list of messages"),
    ],
)
def test_common_exports_are_told_what_to_do(form: str, row: dict[str, Any], advice: str) -> None:
    assert problem(form, row).endswith(advice)


def test_when_the_first_row_is_the_odd_one_it_is_said() -> None:
    chat = {"prompt": [{"role": "user", "content": "Q"}]} | {
        name: [{"role": "assistant", "content": name}] for name in ("chosen", "rejected")
    }
    text = {"prompt": "Q", "chosen": "A", "rejected": "B"}
    component = FORMATS["preference"]
    said = [bad.problem for bad in read(component.build(component.config(), None), [chat, *[text] * 3]).bad]
    assert ["most rows so far are like this one" in problem for problem in said] == [False, True, True]
