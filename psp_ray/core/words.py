"""Words: what a mistyped name meant, and when two names are the same."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Iterable

LONGEST = 1500
"""Characters of a message that are shown."""
_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff\ufff9-\ufffb]"
)
"""Control characters and terminal escapes, what turns the direction of text around, and halves of characters."""

_PASSWORD = re.compile(r"(://[^\s/:@?#]*):[^\s/?#]+@")
_SECRET = re.compile(
    r"(?i)([?&;](?:[a-z0-9_-]*(?:password|passwd|secret|token|signature|credential)[a-z0-9_-]*|pwd|pass|sig|key|api_?key"
    r"|access_?key(?:_?id)?)=)[^\s&;#'\")\]}]+"
)
MASK = "***"


def masked(text: str) -> str:
    """`text` without the passwords and keys in its addresses: `scheme://user:***@host`, `?password=***`."""
    return _SECRET.sub(rf"\1{MASK}", _PASSWORD.sub(rf"\1:{MASK}@", text))


def printable(text: str, limit: int = LONGEST) -> str:
    """`text` as it may be shown on a terminal, at most `limit` characters of it; line breaks and tabs stay, passwords
    in addresses don't.

    Names of files and classes, and messages of other libraries, come from others: written as they are, they could move
    the cursor, recolor the screen, or set its title.
    """
    shown = _UNSAFE.sub(lambda found: _escaped(found.group()), masked(text))
    if len(shown) <= limit:
        return shown
    tail = min(200, limit // 4)
    return f"{shown[: limit - tail - 3]} … {shown[-tail:]}"  # the remedy stands at the end


def short(name: str, limit: int = 80) -> str:
    """A name in a message: on one line, printable, and not longer than a line."""
    text = " ".join(printable(name).split())
    return text if len(text) <= limit else f"{text[: limit // 2]}…{text[-(limit - limit // 2 - 1) :]}"


def counted(number: int, thing: str, several: str = "") -> str:
    """A count and what is counted: `1 label`, `2,000 labels`; `several`: the plural, where no `s` makes it."""
    return f"1 {thing}" if number == 1 else f"{number:,} {several or f'{thing}s'}"


def reason_of(error: BaseException, limit: int = 200) -> str:
    """What an error says, on one line of at most `limit` characters; its kind where it says nothing."""
    return " ".join(str(error).split())[:limit] or type(error).__name__


def same_text(name: str) -> str:
    """What two spellings of a name have in common that look alike: composed characters (NFC), no space around."""
    return unicodedata.normalize("NFC", name).strip()


def is_utf8(text: str) -> bool:
    """Whether a text can be written as UTF-8: names of files may hold what can't."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _escaped(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"


def nearest(word: str, choices: Iterable[str]) -> str | None:
    """The choice that looks most like `word`, or None where none does."""
    found = difflib.get_close_matches(word, list(choices), n=1, cutoff=0.5)
    return found[0] if found else None


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """`; did you mean 'X'?` for the end of an error message; empty where nothing is near."""
    match = nearest(word, choices)
    return f"; did you mean '{match}'?" if match else ""


def normalize_name(name: str) -> str:
    """Lower case and composed (NFC), with every run of spaces, underscores and hyphens as one space."""
    return unicodedata.normalize("NFC", re.sub(r"[\s_\-]+", " ", unicodedata.normalize("NFC", name)).strip().lower())
