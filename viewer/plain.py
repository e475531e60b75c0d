"""Text of files (names, titles of edits, errors) for the page's Markdown, which may hold HTML that would be run as it is."""

from __future__ import annotations

__all__ = ["plain"]

MARKUP = "\\`*_~#[]()!|{}<>&$:@"


def plain(text: str) -> str:
    """Markdown that shows `text` as it is, in one line: nothing in it is a tag, a picture or emphasis."""
    return "".join(f"&#{ord(c)};" if c in MARKUP else c for c in " ".join(text.split()))
