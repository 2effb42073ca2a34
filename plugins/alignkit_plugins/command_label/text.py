"""Texts of models and of people, made safe to show: they are hostile until shown to be text."""

from collections.abc import Sequence
from functools import cache, lru_cache
from typing import NamedTuple
from urllib.parse import urlsplit

from markdown_it import MarkdownIt
from markdown_it.token import Token
from markupsafe import Markup, escape

from alignkit.records import Content

# Markdown is parsed in time that grows with the square of these; longer or stranger texts are shown as they are.
MARKDOWN_CHARACTERS = 20_000
MARKDOWN_SIGNS = {"[": 400, "|": 1500}
ROLES = ("system", "user", "assistant")

# Control characters, and characters that reorder or hide what stands around them, are things to see.
_UNSEEN = [*range(0x00, 0x20), *range(0x7F, 0xA0), 0xAD, 0x061C, 0x180E, 0x3164, 0xFEFF]
_UNSEEN += [0x200B, *range(0x2028, 0x202F), *range(0x2060, 0x206A), *range(0xE0000, 0xE0080)]
_NAMED = {n: f"[U+{n:04X}]" for n in _UNSEEN if chr(n) not in "\t\n"}


class Shown(NamedTuple):
    """One text in both forms; `markdown` is None where only the plain form is shown. `role` is empty outside chats."""

    plain: Markup
    markdown: Markup | None
    role: str = ""


class _Markdown(MarkdownIt):
    def validateLink(self, url: str) -> bool:
        try:
            parts = urlsplit(url)
        except ValueError:
            return False
        return (parts.scheme in ("http", "https") and bool(parts.netloc)) or parts.scheme == "mailto"


@cache
def _markdown() -> MarkdownIt:
    # `reference` would swallow lines such as `[a]: b`; nothing that a model wrote may disappear.
    return _Markdown("js-default", {"breaks": True}).disable(["image", "reference"])


def show(text: str) -> Shown:
    """A text that may be markdown."""
    plain = escape(visible(text))
    return Shown(plain, Markup(_rendered(text)) if _is_tame(text) else None)


def show_content(content: Content) -> Sequence[Shown]:
    """A prompt: one text, or the messages of a conversation."""
    if isinstance(content, str):
        return [show(content)]
    return [show(message.content)._replace(role=visible(message.role)) for message in content]


def _is_tame(text: str) -> bool:
    return len(text) <= MARKDOWN_CHARACTERS and all(text.count(sign) <= most for sign, most in MARKDOWN_SIGNS.items())


def visible(text: str) -> str:
    """The text with every invisible character by its name."""
    return text.replace("\r\n", "\n").translate(_NAMED)


@lru_cache(maxsize=1024)
def _rendered(text: str) -> str:
    """HTML in which nothing is from outside: no raw HTML, no images, links only to the web and to mail."""
    parser = _markdown()
    tokens = parser.parse(visible(text))
    _tame(tokens)
    return str(parser.renderer.render(tokens, parser.options, {}))


def _tame(tokens: Sequence[Token]) -> None:
    for token in tokens:
        if token.type == "link_open":
            token.attrs.update({"rel": "noopener noreferrer nofollow", "target": "_blank", "dir": "auto"})
        elif token.type in ("heading_open", "heading_close"):
            # the page's own outline ends at h2
            token.tag = f"h{min(6, int(token.tag[1]) + 2)}"
        style = token.attrs.pop("style", None)
        if style is not None:  # of table cells; the page's policy allows no inline style
            token.attrs["class"] = str(style).replace("text-align:", "align-")
        if token.children:
            _tame(token.children)
