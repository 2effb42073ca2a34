"""What other programs call the columns, and what to do about a row that came from one of them."""

from typing import Any

# Column as this project calls it -> names that other exports have for it.
_OTHER_NAMES = {
    "prompt": ("question", "instruction", "query", "problem", "input"),
    "completion": ("answer", "output", "response", "solution"),
    "messages": ("conversations", "conversation", "dialog", "dialogue", "chat"),
    "chosen": ("chosen_response", "response_chosen"),
    "rejected": ("rejected_response", "response_rejected"),
    "text": ("content", "document"),
}
_CHATS = ("messages", *_OTHER_NAMES["messages"])


def advice(row: dict[str, Any], column: str) -> str:
    """What to do about `column`, which `row` lacks; empty if nothing is known."""
    name = next((name for name in _OTHER_NAMES.get(column, ()) if name in row), None)
    if name is not None:
        return f"; set {column}_field: {name}"
    chat = next((name for name in _CHATS if isinstance(row.get(name), list)), None)
    if chat is not None and column in ("prompt", "completion"):
        field = "" if chat == "messages" else f", with messages_field: {chat}"
        return f"; the format `messages` reads chats{field}"
    inside = next((name for name, value in row.items() if _holds_rows(value, column)), None) if len(row) < 5 else None
    return "" if inside is None else f"; the rows stand inside {inside[:60]!r}: write that list alone to the file"


def table_by_columns(value: dict[str, Any]) -> bool:
    """Whether `value` is a whole column: {"0": …, "1": …}, as pandas writes tables."""
    return bool(value) and all(key.isdecimal() for key in list(value)[:9])


def _holds_rows(value: Any, column: str) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict) and column in value[0]
