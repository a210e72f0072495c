"""Syntax of the shell subset: text to a tree.

Simple commands, quoting, ``$name ${name} $? $$ $(...)``, assignments, redirections, pipelines, ``! && || ; &``,
subshells, braces, ``if``, ``while``, ``until``, ``for``. No functions, here-documents, globbing or arithmetic:
a script that uses them is refused, not misread.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

from harness.emulated.shellwords import Part, SyntaxRefused, Token, Word, tokens


@dataclass(frozen=True, slots=True)
class Redirect:
    """``fd op target``: op is ``<``, ``>``, ``>>``, ``>&`` or ``<&``."""

    fd: int
    op: str
    target: Word


@dataclass(frozen=True, slots=True)
class Simple:
    assignments: tuple[tuple[str, Word], ...]
    words: tuple[Word, ...]
    redirects: tuple[Redirect, ...]


@dataclass(frozen=True, slots=True)
class Group:
    """``( list )`` (its own variables) or ``{ list; }``."""

    body: Script
    subshell: bool
    redirects: tuple[Redirect, ...]


@dataclass(frozen=True, slots=True)
class If:
    branches: tuple[tuple[Script, Script], ...]
    otherwise: Script | None


@dataclass(frozen=True, slots=True)
class Loop:
    condition: Script
    body: Script
    until: bool


@dataclass(frozen=True, slots=True)
class For:
    name: str
    words: tuple[Word, ...]
    body: Script


Command = Simple | Group | If | Loop | For


@dataclass(frozen=True, slots=True)
class Pipeline:
    commands: tuple[Command, ...]
    negated: bool


@dataclass(frozen=True, slots=True)
class AndOr:
    """Pipelines joined by && and ||; each with the operator before it."""

    items: tuple[tuple[str, Pipeline], ...]
    background: bool


@dataclass(frozen=True, slots=True)
class Script:
    items: tuple[AndOr, ...] = field(default=())


class _Parser:
    def __init__(self, text: str) -> None:
        self._tokens = tokens(text)
        self._at = 0

    @property
    def _now(self) -> Token:
        return self._tokens[self._at]

    def _next(self) -> Token:
        token = self._now
        self._at += 1
        return token

    def _skip_newlines(self) -> None:
        while self._now.kind == "\n":
            self._at += 1

    def _expect(self, keyword: str) -> None:
        self._skip_newlines()
        token = self._next()
        if keyword not in (token.bare, token.kind):
            raise SyntaxRefused(f'Syntax error: "{token.bare or token.kind}" unexpected (expecting "{keyword}")')

    def script(self, *ends: str) -> Script:
        items: list[AndOr] = []
        while True:
            while self._now.kind in ("\n", ";"):
                self._at += 1
            if self._now.kind in ("end", ")") or self._now.bare in ends:
                return Script(tuple(items))
            items.append(self._and_or())

    def _and_or(self) -> AndOr:
        items = [("", self._pipeline())]
        while self._now.kind in ("&&", "||"):
            operator = self._next().kind
            self._skip_newlines()
            items.append((operator, self._pipeline()))
        background = self._now.kind == "&"
        if background:
            self._at += 1
        return AndOr(tuple(items), background)

    def _pipeline(self) -> Pipeline:
        negated = self._now.bare == "!"
        if negated:
            self._at += 1
        commands = [self._command()]
        while self._now.kind == "|":
            self._at += 1
            self._skip_newlines()
            commands.append(self._command())
        return Pipeline(tuple(commands), negated)

    def _command(self) -> Command:
        if self._now.kind == "(":
            self._at += 1
            body = self.script()
            self._expect(")")
            return Group(body, True, self._redirects())
        match self._now.bare:
            case "{":
                self._at += 1
                body = self.script("}")
                self._expect("}")
                return Group(body, False, self._redirects())
            case "if":
                return self._if()
            case "while" | "until":
                until = self._next().bare == "until"
                condition = self.script("do")
                self._expect("do")
                body = self.script("done")
                self._expect("done")
                return Loop(condition, body, until)
            case "for":
                return self._for()
        return self._simple()

    def _if(self) -> If:
        branches = []
        self._at += 1
        while True:
            condition = self.script("then")
            self._expect("then")
            branches.append((condition, self.script("elif", "else", "fi")))
            keyword = self._next().bare
            if keyword == "fi":
                return If(tuple(branches), None)
            if keyword not in ("elif", "else"):
                raise SyntaxRefused('Syntax error: end of file unexpected (expecting "fi")')
            if keyword == "else":
                otherwise = self.script("fi")
                self._expect("fi")
                return If(tuple(branches), otherwise)

    def _for(self) -> For:
        self._at += 1
        name = self._next().bare
        self._expect("in")
        words = []
        while self._now.kind == "word":
            words.append(self._next().word)
        self.script("do")
        self._expect("do")
        body = self.script("done")
        self._expect("done")
        return For(name, tuple(words), body)

    def _redirects(self) -> tuple[Redirect, ...]:
        found = []
        while redirect := self._redirect():
            found.append(redirect)
        return tuple(found)

    def _redirect(self) -> Redirect | None:
        token = self._now
        if token.kind == "<<":
            raise SyntaxRefused("Syntax error: here-documents are not supported")
        if token.kind not in ("<", ">", ">>", ">&", "<&"):
            return None
        self._at += 1
        target = self._next()
        if target.kind != "word":
            raise SyntaxRefused("Syntax error: redirection without a target")
        fd = token.fd if token.fd is not None else (0 if token.kind.startswith("<") else 1)
        return Redirect(fd, token.kind, target.word)

    def _simple(self) -> Simple:
        assignments: list[tuple[str, Word]] = []
        words: list[Word] = []
        redirects: list[Redirect] = []
        while True:
            if redirect := self._redirect():
                redirects.append(redirect)
            elif self._now.kind == "word":
                word = self._next().word
                first = word[0] if word else Part("text", "", True)
                name, equals, rest = first.text.partition("=")
                if not words and equals and first.kind == "text" and not first.quoted and name.isidentifier():
                    assignments.append((name, (Part("text", rest, True), *word[1:])))
                else:
                    words.append(word)
            else:
                break
        if not (assignments or words or redirects):
            token = self._now
            raise SyntaxRefused(f'Syntax error: "{token.bare or token.kind}" unexpected')
        return Simple(tuple(assignments), tuple(words), tuple(redirects))


@lru_cache(maxsize=256)
def parse(text: str) -> Script:
    """Parse a whole script; raises :class:`SyntaxRefused`."""
    try:
        parser = _Parser(text)
        script = parser.script()
    except ValueError:
        raise SyntaxRefused("Syntax error: Unterminated quoted string") from None
    if parser._now.kind != "end":
        raise SyntaxRefused(f'Syntax error: "{parser._now.kind}" unexpected')
    return script
