"""Words of the shell subset: text to tokens, with quoting and expansions taken apart but not done."""

from __future__ import annotations

import re
from typing import NamedTuple

# A script of one guest has two thousand signs, and there is one for every cell: they are taken in runs, not one by one.
_BLANK = re.compile(r"(?:[ \t]|\\\n|#[^\n]*)+")
_OPERATOR = re.compile(r"([0-9](?=[<>]))?(&&|\|\||;;|>>|>&|<&|<<|[;&|()><\n])")
#: A whole word that needs no second look, with the blanks before it: most are.
_PLAIN = re.compile(r"[ \t]*([^ \t\n;&|()<>\\'\"$`#0-9][^ \t\n;&|()<>\\'\"$`]*)(?=[ \t\n;&|()<>]|$)")
_LITERAL = re.compile(r"[^ \t\n;&|()<>\\'\"$`]+")
_IN_DOUBLE = re.compile(r'[^"\\$]+')
_NAME = re.compile(r"[A-Za-z0-9_]+")
_BRACKETING = re.compile(r"""['"\\()]""")


class SyntaxRefused(Exception):
    """The script uses what this shell does not know."""


class Part(NamedTuple):
    """A piece of a word: ``text``, ``var`` (a name) or ``command`` (a script); quoted pieces are not split."""

    kind: str
    text: str
    quoted: bool


Word = tuple[Part, ...]


class Token(NamedTuple):
    """An operator, a word, or the end. ``bare`` is the text of an unquoted literal word, otherwise empty."""

    kind: str  # "word" or the operator itself; "end"
    word: Word = ()
    fd: int | None = None
    bare: str = ""


def _matching(text: str, start: int) -> int:
    """Index of the parenthesis that closes the one before ``start``."""
    depth, at, quote = 1, start, ""
    while found := _BRACKETING.search(text, at):
        sign, at = found[0], found.end()
        if quote:
            if sign == quote:
                quote = ""
            elif sign == "\\" and quote == '"':
                at += 1
        elif sign in "'\"":
            quote = sign
        elif sign == "\\":
            at += 1
        elif sign == "(":
            depth += 1
        else:
            depth -= 1
            if depth == 0:
                return found.start()
    raise SyntaxRefused("Syntax error: end of file unexpected (expecting \")\")")


def _dollar(text: str, at: int, quoted: bool) -> tuple[Part, int]:
    """The expansion that starts with the ``$`` before ``at``."""
    if text.startswith("((", at):
        raise SyntaxRefused("Syntax error: arithmetic expansion is not supported")
    if text.startswith("(", at):
        end = _matching(text, at + 1)
        return Part("command", text[at + 1 : end], quoted), end + 1
    if text.startswith("{", at):
        end = text.index("}", at)
        return Part("var", text[at + 1 : end], quoted), end + 1
    if at < len(text) and text[at] in "?$!#":
        return Part("var", text[at], quoted), at + 1
    name = _NAME.match(text, at)
    if name is None:
        return Part("text", "$", quoted), at
    return Part("var", name[0], quoted), name.end()


def _word(text: str, at: int) -> tuple[Word, int]:
    parts: list[Part] = []
    while at < len(text) and text[at] not in " \t\n;&|()<>":
        char = text[at]
        if char == "\\":
            parts.append(Part("text", text[at + 1 : at + 2].replace("\n", ""), True))
            at += 2
        elif char == "'":
            end = text.index("'", at + 1)
            parts.append(Part("text", text[at + 1 : end], True))
            at = end + 1
        elif char == '"':
            at = _double(text, at + 1, parts)
        elif char == "$":
            part, at = _dollar(text, at + 1, False)
            parts.append(part)
        elif literal := _LITERAL.match(text, at):
            parts.append(Part("text", literal[0], False))
            at = literal.end()
        else:
            raise SyntaxRefused("Syntax error: use $(...) instead of backquotes")
    return tuple(parts), at


def _double(text: str, at: int, parts: list[Part]) -> int:
    literal = ""
    while at < len(text) and text[at] != '"':
        if run := _IN_DOUBLE.match(text, at):
            literal += run[0]
            at = run.end()
        elif text[at] == "$":
            parts.append(Part("text", literal, True))
            literal = ""
            part, at = _dollar(text, at + 1, True)
            parts.append(part)
        elif text[at + 1 : at + 2] in ("$", '"', "\\", "\n", "`"):
            literal += text[at + 1].replace("\n", "")
            at += 2
        else:
            literal += text[at]
            at += 1
    if at >= len(text):
        raise SyntaxRefused("Syntax error: Unterminated quoted string")
    parts.append(Part("text", literal, True))
    return at + 1


def tokens(text: str) -> list[Token]:
    """The tokens of a script, the last of kind ``end``.

    Raises :class:`SyntaxRefused`, and ``ValueError`` for a quote that is never closed.
    """
    found: list[Token] = []
    at = 0
    while at < len(text):
        if plain := _PLAIN.match(text, at):
            found.append(Token("word", (Part("text", plain[1], False),), bare=plain[1]))
            at = plain.end()
        elif blank := _BLANK.match(text, at):
            at = blank.end()
        elif operator := _OPERATOR.match(text, at):
            found.append(Token(operator[2], fd=int(operator[1]) if operator[1] else None))
            at = operator.end()
        else:
            word, at = _word(text, at)
            literal = len(word) == 1 and word[0].kind == "text" and not word[0].quoted
            found.append(Token("word", word, bare=word[0].text if literal else ""))
    found.append(Token("end"))
    return found
