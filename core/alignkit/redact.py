"""Secrets kept out of what is written and shown: keys, passwords and tokens become `[secret]`.

Everything that alignkit logs, prints as an error or writes into a run's record passes here; a recipe that holds a
secret is refused before that. It knows what was given to `hide`, the values of environment variables whose names say
that they are secret, and the forms that keys usually have. It cannot know a key of another form: such a one belongs
into an environment variable.
"""

import os
import re
from collections.abc import Iterable
from typing import Any

MASK = "[secret]"
# A shorter value, or one without a digit, may be an ordinary word and would be masked wherever it stands.
SHORTEST = 12

_NAMED = re.compile(r"(?:^|_)(?:API_?KEY|KEY|TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIALS?)(?:$|_)")
_PLACES = ("_FILE", "_PATH", "_DIR", "_ENV", "_NAME")
# Repetitions before a fixed part are bounded: texts of strangers pass here, in time that must not grow as a square.
_FORMS: tuple[tuple[re.Pattern[str], str], ...] = (
    # https://user:password@host
    (re.compile(r"(?<=://)[^\s/?#]{1,2000}@"), f"{MASK}@"),
    # ?token=…, &X-Amz-Signature=…
    (
        re.compile(
            r"(?i)(?<=[?&;])((?:[\w-]{0,40}[_-])?"
            r"(?:token|api_?key|key|secret|password|passwd|pwd|signature|sig|auth|credential)=)(?!\[secret\])[^&\s#\"']+"
        ),
        rf"\1{MASK}",
    ),
    # Authorization: Bearer …
    (
        re.compile(
            r"(?i)(\bauthorization[\"']?\s?[:=]\s?[\"']?(?:bearer |basic |token )?)"
            r"(?!(?:bearer|basic|token) )[^\s\"',}\[]{6,}"
        ),
        rf"\1{MASK}",
    ),
    (re.compile(r"(?i)(\bbearer )[\w.~+/=-]{16,}"), rf"\1{MASK}"),
    (re.compile(r"\b((?:[A-Z0-9]{1,40}_)*(?:API_?KEY|TOKEN|SECRET|PASSWORD)=)[^\s\[]{6,}"), rf"\1{MASK}"),
    # OpenAI, Anthropic, Stripe; Hugging Face; GitHub; GitLab; Slack; Amazon; Google; a signed token
    (re.compile(r"\b[spr]k[-_](?=[A-Za-z_-]{0,80}\d)[\w-]{16,}"), MASK),
    (re.compile(r"\bhf_[A-Za-z0-9]{20,}"), MASK),
    (re.compile(r"\b(?:gh[pousr]_|github_pat_)\w{20,}"), MASK),
    (re.compile(r"\bglpat-[\w-]{16,}"), MASK),
    (re.compile(r"\bxox[abeprs]-[\w-]{10,}"), MASK),
    (re.compile(r"\bAKIA[0-9A-Z]{16}\b"), MASK),
    (re.compile(r"\bAIza[\w-]{30,}"), MASK),
    (re.compile(r"\beyJ[\w-]{10,2000}\.[\w-]{10,2000}\.[\w-]{10,}"), MASK),
    (
        re.compile(r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----[^-]{0,10000}(?:-----END [A-Z ]{0,30}PRIVATE KEY-----)?"),
        MASK,
    ),
)
_hidden: set[str] = set()


def hide(value: str) -> None:
    """Mask this text from now on, whatever form it has."""
    if value.strip():
        _hidden.add(value.strip())


def redact(text: str) -> str:
    """`text` with every secret in it masked."""
    return _masked(text, _known())


def redacted(data: Any) -> Any:
    """A copy of plain data in which every text, keys of mappings included, is redacted."""
    return _copied(data, _known())


def _copied(data: Any, known: list[str]) -> Any:
    if isinstance(data, str):
        return _masked(data, known)
    if isinstance(data, dict):
        return {_copied(k, known): _copied(v, known) for k, v in data.items()}
    if isinstance(data, list | tuple):
        return [_copied(v, known) for v in data]
    return data


def _masked(text: str, known: Iterable[str]) -> str:
    for value in known:
        text = text.replace(value, MASK)
    for form, instead in _FORMS:
        text = form.sub(instead, text)
    return text


def _known() -> list[str]:
    """Longest first: one secret may begin another."""
    return sorted({*_hidden, *_of_environment()}, key=lambda value: (-len(value), value))


def _of_environment() -> set[str]:
    found = set()
    for name, value in os.environ.items():
        if not _NAMED.search(name.upper()) or name.upper().endswith(_PLACES):
            continue
        value = value.strip()
        if len(value) >= SHORTEST and any(c.isdigit() for c in value) and not value.startswith("/"):
            found.add(value)
    return found
