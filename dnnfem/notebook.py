"""Tables as notebooks show them."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape


def table(lines: Sequence[Sequence[str]], before: str = "") -> str:
    """Return HTML: some text, and a table whose first line has the titles."""
    head, *rows = ("".join(f"<{tag}>{escape(text)}</{tag}>" for text in line) for tag, line in _tagged(lines))
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    text = "<br>".join(escape(before).splitlines())
    return f"<p>{text}</p><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _tagged(lines: Sequence[Sequence[str]]) -> list[tuple[str, Sequence[str]]]:
    return [("td" if number else "th", line) for number, line in enumerate(lines)]
