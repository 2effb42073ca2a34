"""Every built-in data format keeps the contract of its kind."""

from alignkit.manager import PluginManager
from alignkit.testing import DataFormatContract

CHAT = [{"role": "user", "content": "How was it?"}, {"role": "assistant", "content": "Quiet, and warm at the end."}]
OTHER_CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "And the score?"},
    {"role": "assistant", "content": "Haunting."},
]


class TestText(DataFormatContract):
    component = "text"
    good_rows = ({"text": "the quiet film"}, {"text": "a long thriller\nin two parts"}, {"text": "naïve 漢字"})
    bad_rows = ({"text": ""}, {"text": 3}, {"txt": "a"}, 3, {"text": None}, {"text": CHAT})
    bad_options = ({"separator": "comma"},)


class TestTextOfLines(DataFormatContract):
    component = "text"
    options = {"separator": "line"}
    good_rows = ("the quiet film", "a long thriller", "families")
    bad_rows = (3, None)


class TestTextOfParagraphs(DataFormatContract):
    component = "text"
    good_rows = ("the quiet film", "won me over", "", "a long", "thriller", "")
    bad_rows = (3, None)
    joins_rows = True


class TestPromptCompletion(DataFormatContract):
    component = "prompt_completion"
    good_rows = (
        {"prompt": "the quiet film", "completion": " won me over"},
        {"prompt": [CHAT[0]], "completion": [CHAT[1]]},
        {"prompt": "families", "completion": " like it"},
    )
    bad_rows = ({"prompt": "a"}, {"completion": "a"}, {"prompt": "a", "completion": ""}, ["a", "b"])


class TestMessages(DataFormatContract):
    component = "messages"
    good_rows = ({"messages": CHAT}, {"messages": OTHER_CHAT})
    bad_rows = ({"messages": []}, {"messages": CHAT[:1]}, {"messages": "How was it?"}, {"messages": [{"role": "user"}]})


class TestPreference(DataFormatContract):
    component = "preference"
    good_rows = (
        {"prompt": "the film", "chosen": " is warm", "rejected": " is dull"},
        {"prompt": "the film", "chosen": " is short", "rejected": " is long"},
    )
    bad_rows = (
        {"prompt": "a", "chosen": "b"},
        {"prompt": "a", "chosen": "b", "rejected": None},
        {"prompt": "a", "chosen": "b", "rejected": 1},
    )


class TestPreferenceOfChats(DataFormatContract):
    component = "preference"
    good_rows = (
        {"prompt": [CHAT[0]], "chosen": [CHAT[1]], "rejected": [{"role": "assistant", "content": "Dull."}]},
        {"prompt": OTHER_CHAT[:2], "chosen": [CHAT[1]], "rejected": OTHER_CHAT[2:]},
    )
    bad_rows = ({"prompt": [CHAT[0]], "chosen": [CHAT[1]]}, {"prompt": CHAT, "chosen": "a", "rejected": CHAT})


class TestPreferenceWithoutPrompt(DataFormatContract):
    component = "preference"
    good_rows = (
        {"chosen": CHAT, "rejected": [CHAT[0], OTHER_CHAT[2]]},
        {"chosen": OTHER_CHAT, "rejected": [*OTHER_CHAT[:2], CHAT[1]]},
    )
    bad_rows = ({"chosen": CHAT}, {"chosen": CHAT, "rejected": []}, {"chosen": "a", "rejected": CHAT})


class TestHH(DataFormatContract):
    component = "hh"
    good_rows = (
        {"chosen": "\n\nHuman: Hello\n\nAssistant: Hi.", "rejected": "\n\nHuman: Hello\n\nAssistant: No."},
        {"chosen": "\n\nHuman: And?\n\nAssistant: Yes.", "rejected": "\n\nHuman: And?\n\nAssistant: Never."},
    )
    bad_rows = (
        {"chosen": "Hello", "rejected": "Hi"},
        {"chosen": "\n\nHuman: Hello\n\nAssistant: Hi."},
        {"chosen": "\n\nHuman: A\n\nAssistant: Hi.", "rejected": "\n\nHuman: B\n\nAssistant: Hi."},
    )


class TestLabelled(DataFormatContract):
    component = "labelled"
    good_rows = (
        {"prompt": "the film", "completion": " is warm", "label": True},
        {"prompt": "the film", "completion": " is dull", "label": False},
    )
    bad_rows = (
        {"prompt": "a", "completion": "b"},
        {"prompt": "a", "completion": "b", "label": 1},
        {"prompt": "a", "completion": "", "label": True},
    )


class TestPrompts(DataFormatContract):
    component = "prompts"
    good_rows = ({"prompt": "the quiet film"}, {"messages": CHAT}, {"prompt": [CHAT[0]]})
    bad_rows = ({"prompt": ""}, {"question": "a"}, {"prompt": 1})


class TestClasses(DataFormatContract):
    component = "classes"
    options = {"pairs": 3, "scale": 1.0}
    bad_options = ({}, {"pairs": 0}, {"pairs": 1, "scale": 0})
    good_rows = (
        {"text": "a warm film", "label": 2},
        {"text": "a dull film", "label": 0},
        {"text": "a film", "label": 1},
        {"text": "another film", "label": 1.5},
    )
    bad_rows = ({"text": "a"}, {"text": "a", "label": "good"}, {"text": "", "label": 1}, {"text": CHAT, "label": 1})
    row_by_row = False


class TestFilmWorld(DataFormatContract):
    component = "film_world"
    options = {"rows": 20, "prompts": 10, "test_prompts": 5}
    bad_options = ({"rows": 0}, {"prompts": -1})


def test_none_is_left_out() -> None:
    manager = PluginManager()
    manager.load()
    tested = {c.component for c in DataFormatContract.__subclasses__() if c.__module__ == __name__}
    builtin = {r.component.name for r in manager.all("data_format") if r.distribution == "alignkit"}
    assert tested == builtin
