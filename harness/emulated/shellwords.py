"""Words of the shell subset: text to tokens, with quoting and expansions taken apart but not done."""

from __future__ import annotations

from dataclasses import dataclass

_OPERATORS = ("&&", "||", ";;", ">>", ">&", "<&", "<<", ";", "&", "|", "(", ")", ">", "<", "\n")


class SyntaxRefused(Exception):
    """The script uses what this shell does not know."""


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of a word: ``text``, ``var`` (a name) or ``command`` (a script); quoted pieces are not split."""

    kind: str
    text: str
    quoted: bool


Word = tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Token:
    """An operator, a word, or the end."""

    kind: str  # "word" or the operator itself; "end"
    word: Word = ()
    fd: int | None = None

    @property
    def bare(self) -> str:
        """The text of an unquoted literal word, otherwise empty."""
        if self.kind == "word" and len(self.word) == 1 and self.word[0].kind == "text" and not self.word[0].quoted:
            return self.word[0].text
        return ""


def _matching(text: str, start: int) -> int:
    """Index of the parenthesis that closes the one before ``start``."""
    depth, at, quote = 1, start, ""
    while at < len(text):
        char = text[at]
        if quote:
            if char == quote:
                quote = ""
            elif char == "\\" and quote == '"':
                at += 1
        elif char in "'\"":
            quote = char
        elif char == "\\":
            at += 1
        elif char == "(":
            depth += 1
        elif char == ")":
            depth -= 1
            if depth == 0:
                return at
        at += 1
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
    end = at
    while end < len(text) and (text[end].isalnum() or text[end] == "_"):
        end += 1
    if end == at:
        return Part("text", "$", quoted), at
    return Part("var", text[at:end], quoted), end


def _word(text: str, at: int) -> tuple[Word, int]:
    parts: list[Part] = []
    literal = ""

    def flush() -> None:
        nonlocal literal
        if literal:
            parts.append(Part("text", literal, False))
        literal = ""

    while at < len(text) and text[at] not in " \t\n;&|()<>":
        char = text[at]
        if char == "\\":
            flush()
            parts.append(Part("text", text[at + 1 : at + 2].replace("\n", ""), True))
            at += 2
        elif char == "'":
            end = text.index("'", at + 1)
            flush()
            parts.append(Part("text", text[at + 1 : end], True))
            at = end + 1
        elif char == '"':
            flush()
            at = _double(text, at + 1, parts)
        elif char == "$":
            flush()
            part, at = _dollar(text, at + 1, False)
            parts.append(part)
        elif char == "`":
            raise SyntaxRefused("Syntax error: use $(...) instead of backquotes")
        else:
            literal += char
            at += 1
    flush()
    return tuple(parts), at


def _double(text: str, at: int, parts: list[Part]) -> int:
    literal = ""
    while at < len(text) and text[at] != '"':
        if text[at] == "\\" and text[at + 1 : at + 2] in ("$", '"', "\\", "\n", "`"):
            literal += text[at + 1].replace("\n", "")
            at += 2
        elif text[at] == "$":
            parts.append(Part("text", literal, True))
            literal = ""
            part, at = _dollar(text, at + 1, True)
            parts.append(part)
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
        char = text[at]
        if char in " \t":
            at += 1
        elif text.startswith("\\\n", at):
            at += 2
        elif char == "#":
            end = text.find("\n", at)
            at = len(text) if end < 0 else end
        elif char.isdigit() and text[at + 1 : at + 2] in ("<", ">"):
            operator = next(op for op in _OPERATORS if text.startswith(op, at + 1))
            found.append(Token(operator, fd=int(char)))
            at += 1 + len(operator)
        elif operator := next((op for op in _OPERATORS if text.startswith(op, at)), ""):
            found.append(Token(operator))
            at += len(operator)
        else:
            word, at = _word(text, at)
            found.append(Token("word", word))
    found.append(Token("end"))
    return found
