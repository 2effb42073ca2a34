"""Rows as a model reads them: lengths against a tokenizer asked directly, and each kind of row that is a mistake."""

import json
from pathlib import Path

import pytest

from alignkit.preflight import block_findings, row_findings
from alignkit.preflight.content import content_findings
from alignkit.preflight.folder import ModelFacts, model_facts
from alignkit.preflight.sample import ENCODED, DataView
from alignkit.records import Demonstration, LabelledCompletion, Message, PreferencePair, Record, Text
from helpers.models import BOS, EOS, TURN_END, make_tokenizer
from helpers.preflight import Facts, View, codes, with_code

PLAIN = [Demonstration(prompt=f"the film {n}", completion=f" is number {n}") for n in range(20)]
CHAT = [
    Demonstration(
        prompt=(Message(role="user", content=f"is it good {n}?"),),
        completion=(Message(role="assistant", content=f"yes {n}"),),
    )
    for n in range(20)
]
LONG = Demonstration(prompt="the film", completion=" is long" * 60)


def tokens(facts: ModelFacts, record: Demonstration) -> int:
    """Prompt with its start token, completion, end token."""
    ask = facts.encoder.tokenizer
    return len(ask(record.prompt).input_ids) + len(ask(record.completion, add_special_tokens=False).input_ids) + 1


def test_sound_rows_have_nothing_to_say(model: Facts, view: View) -> None:
    assert codes(row_findings(view(model(), PLAIN), 64, "drop")) == []
    turn_end = make_tokenizer(chat=True).convert_tokens_to_ids(TURN_END)
    assert codes(row_findings(view(model("chat", [turn_end], chat=True), CHAT), 64, "drop")) == []
    assert codes(row_findings(view(None, PLAIN), 1, "drop")) == []  # without a tokenizer nothing is known of tokens


@pytest.mark.parametrize(
    ("too_long", "code", "says"),
    [
        ("drop", "R021", "they are left out"),
        ("truncate", "R010", "1 are cut and lose the end token"),
        ("error", "R023", "are longer than 64 tokens"),
    ],
)
def test_a_row_that_is_too_long(model: Facts, view: View, too_long: str, code: str, says: str) -> None:
    facts = model()
    finding = with_code(row_findings(view(facts, [*PLAIN, LONG]), 64, too_long), code)
    assert says in finding.what
    assert f"1 of 21 rows are longer than 64 tokens, the longest has {tokens(facts, LONG)}" in finding.what
    assert finding.where == (f"{view(facts, PLAIN).data.path}:21" if code == "R023" else "max_length")


def test_few_long_rows_are_a_note_and_only_long_ones_an_error(model: Facts, view: View) -> None:
    facts = model()
    many = [Demonstration(prompt=f"film {n}", completion=" good") for n in range(150)]
    assert codes(row_findings(view(facts, [*many, LONG]), 64, "drop")) == ["R022"]
    assert codes(row_findings(view(facts, [LONG] * 3), 64, "drop")) == ["R020"]
    prompt_alone = Demonstration(prompt=" is long" * 60, completion=" yes")
    assert codes(row_findings(view(facts, [prompt_alone]), 64, "truncate")) == ["R020"]


def test_the_limits_are_exact(model: Facts, view: View) -> None:
    facts = model()
    length = tokens(facts, PLAIN[0])
    assert codes(row_findings(view(facts, PLAIN[:1]), length, "drop")) == []
    assert codes(row_findings(view(facts, PLAIN[:1]), length - 1, "drop")) == ["R020"]
    for more, expected in ((0, []), (1, ["R024"])):
        words = "x" * (128 - tokens(facts, Demonstration(prompt="q", completion="")) + more)  # a token each
        row = Demonstration(prompt="q", completion=words)
        assert tokens(facts, row) == 128 + more
        assert codes(row_findings(view(facts, [row]), 512, "drop")) == expected


def test_either_side_of_a_pair_counts(model: Facts, view: View) -> None:
    pairs = [PreferencePair(prompt="the film", chosen=" good", rejected=str(LONG.completion)) for _ in range(3)]
    assert codes(row_findings(view(model(), pairs), 64, "drop")) == ["R020"]


def test_rows_that_stay_must_fit_the_positions(model: Facts, view: View) -> None:
    facts = model()
    assert facts.max_positions == 128
    finding = with_code(row_findings(view(facts, [LONG]), 512, "drop"), "R024")
    assert f"{tokens(facts, LONG)} tokens, and the model 128 positions" in finding.what
    texts = view(facts, [Text(text="a film")])
    assert codes(block_findings(texts, 129)) == ["R024"]
    assert codes(block_findings(texts, 128)) == []


def test_only_a_sample_is_encoded_and_its_size_is_said(model: Facts, view: View) -> None:
    rows = [*[Demonstration(prompt=f"film {n}", completion=" good") for n in range(700)], *[LONG] * 300]
    finding = with_code(row_findings(view(model(), rows), 64, "drop"), "R021")
    assert finding.what.startswith(f"60 of {ENCODED} rows looked at (of 1,000)")  # every fifth: 300 / 5


class TestTokens:
    """Start, end and special tokens."""

    def test_answers_that_other_tools_would_not_end(self, model: Facts, view: View) -> None:
        finding = with_code(row_findings(view(model(chat=True), CHAT), 64, "drop"), "R012")
        assert f"answers end with {TURN_END}" in finding.what
        assert f"end generation at {EOS}" in finding.what

    def test_a_template_without_a_turn_end(self, model: Facts, view: View) -> None:
        template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
        template += "{% if add_generation_prompt %}assistant: {% endif %}"
        found = row_findings(view(model(chat=True, template=template), CHAT), 64, "drop")
        assert with_code(found, "R013").severity == "warning"

    def test_padding_that_is_the_end_token_is_a_note(self, model: Facts, view: View) -> None:
        assert codes(row_findings(view(model(pad=EOS), PLAIN), 64, "drop")) == ["R011"]

    def test_start_tokens_and_other_special_tokens_in_texts(self, model: Facts, view: View) -> None:
        rows = [Demonstration(prompt=f"{BOS}the film {n}", completion=" good") for n in range(4)]
        found = list(row_findings(view(model(), rows), 64, "drop"))
        assert codes(found) == ["R014", "R015"]
        assert found[0].what == f"4 of 4 rows begin with {BOS} {BOS}"
        ends = [Demonstration(prompt="the film", completion=f" good{EOS}") for _ in PLAIN]
        assert EOS in with_code(row_findings(view(model(), ends), 64, "drop"), "R015").what

    def test_conversations_need_a_template_and_a_template_wants_conversations(self, model: Facts, view: View) -> None:
        finding = with_code(row_findings(view(model(), CHAT), 64, "drop"), "R017")
        assert "20 of 20 rows" in finding.what
        assert "no chat template" in finding.what
        assert "R018" in codes(row_findings(view(model("chat", chat=True), PLAIN), 64, "drop"))

    def test_a_template_that_does_not_go_on_from_its_generation_prompt(self, model: Facts, view: View) -> None:
        template = "{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}"
        template += "{% if add_generation_prompt %}<|im_start|>assistant: {% endif %}"
        finding = with_code(row_findings(view(model(chat=True, template=template), CHAT), 64, "drop"), "R017")
        assert "changes earlier turns" in finding.what

    @pytest.mark.parametrize(("missing", "code"), [(1, "R019"), (200, "R016")])
    def test_a_tokenizer_that_is_larger_than_the_model(self, model: Facts, view: View, missing: int, code: str) -> None:
        path = Path(model().path)
        config = json.loads((path / "config.json").read_text())
        config["vocab_size"] -= missing
        (path / "config.json").write_text(json.dumps(config))
        facts = model_facts(str(path))
        rows = PLAIN if code == "R016" else [Demonstration(prompt="x", completion="y")]
        assert codes(row_findings(view(facts, rows), 64, "drop")) == [code]


class TestContent:
    """Rows as they are written."""

    def look(self, data: DataView) -> list[str]:
        return codes(content_findings(data.data, data.eval_data))

    def test_sound_rows_have_nothing_to_say(self, view: View) -> None:
        assert self.look(view(None, PLAIN, [Demonstration(prompt="other", completion=" words")])) == []

    @pytest.mark.parametrize(
        ("code", "row"),
        [
            ("R025", Demonstration(prompt="the film", completion=" …\n")),
            ("R025", LabelledCompletion(prompt="the film", completion="", label=True)),
            ("R027", PreferencePair(prompt="the film", chosen=" good", rejected=" good")),
        ],
    )
    def test_rows_that_teach_nothing(self, view: View, code: str, row: Record) -> None:
        data = view(None, [row])
        finding = with_code(content_findings(data.data, None), code)
        assert finding.where == f"{data.data.path}:1"
        assert "1 of 1 row" in finding.what

    def test_repeated_rows(self, view: View) -> None:
        finding = with_code(content_findings(view(None, [*PLAIN, *PLAIN[:5]]).data, None), "R026")
        assert finding.what == "5 of 25 rows are exactly equal to an earlier one"

    def test_heldout_prompts_that_are_trained_on(self, view: View) -> None:
        heldout = [Demonstration(prompt="the film 7", completion=" other words"), *PLAIN[:0]]
        data = view(None, PLAIN, heldout)
        finding = with_code(content_findings(data.data, data.eval_data), "R028")
        assert "1 of 1 row held out" in finding.what
        # without a prompt it is the text that leaks
        bare = [PreferencePair(prompt="", chosen=f"good {n}", rejected=f"bad {n}") for n in range(9)]
        fresh = [PreferencePair(prompt="", chosen="new", rejected="old")]
        assert self.look(view(None, bare, fresh)) == []
        assert self.look(view(None, bare, [PreferencePair(prompt="", chosen="new", rejected="bad 3")])) == ["R028"]
