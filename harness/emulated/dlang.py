"""The subset of D that the emulated host's dtrace understands, as a syntax tree. Anything else is refused.

A program is a list of ``#pragma D option NAME[=VALUE]`` lines and clauses ``PROBE[, PROBE]... [/PREDICATE/] {
STATEMENTS }``. Probes are ``BEGIN``, ``END``, ``tick-Ns`` and ``provider:module:function:name`` with empty parts and
``*`` for anything. Statements, each ended by ``;`` (the last may do without):

- ``self->NAME = EXPR``, ``this->NAME = EXPR``, ``NAME = EXPR``: thread-local, clause-local and global integers
- ``@NAME = FUNCTION(...)`` and ``@NAME[KEY, ...] = FUNCTION(...)`` with ``count()``, ``sum(E)``, ``min(E)``, ``max(E)``
- ``printf("...", EXPR...)``, ``printa("...", @NAME)``, ``exit(EXPR)``

Expressions have C's operators on integers (no assignment inside), strings as keys and arguments, ``arg0`` to ``arg4``,
``cpu``, ``tid``, ``pid``, ``execname``, ``timestamp``, ``probename``, ``probefunc``, ``stringof(curthread->td_name)``,
``stack()`` and ``stack(N)`` as keys, ``offsetof(struct S, MEMBER)``, and members of structures by way of a pointer that
an argument of an entry probe is made of: ``((struct S *)(arg1 - 8))->a->b.c``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field


class DError(Exception):
    """What a program is refused for; ``line`` is 1 for the first."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line
        self.message = message


@dataclass(frozen=True, slots=True)
class Expr:
    """A node: ``op`` says what it is, ``text`` its name, operator or string, ``args`` its operands."""

    op: str
    text: str = ""
    value: int = 0
    args: tuple[Expr, ...] = ()
    line: int = 0


@dataclass(frozen=True, slots=True)
class Statement:
    """``op`` is ``assign`` (``scope`` self, this or global), ``aggregate``, ``printf``, ``printa`` or ``exit``."""

    op: str
    name: str = ""
    scope: str = ""
    keys: tuple[Expr, ...] = ()
    function: str = ""
    args: tuple[Expr, ...] = ()
    line: int = 0


@dataclass(frozen=True, slots=True)
class Clause:
    probes: tuple[str, ...]
    predicate: Expr | None
    body: tuple[Statement, ...]
    line: int


@dataclass(frozen=True, slots=True)
class DProgram:
    options: dict[str, str] = field(default_factory=dict)
    clauses: tuple[Clause, ...] = ()


AGGREGATIONS = {"count": 0, "sum": 1, "min": 1, "max": 1}
BUILTINS = (
    "arg0", "arg1", "arg2", "arg3", "arg4", "cpu", "tid", "pid", "execname", "timestamp", "probename", "probefunc",
)  # fmt: skip

_TOKEN = re.compile(
    r"""\s*(?:(?P<number>0[xX][0-9a-fA-F]+|\d+)
    |(?P<string>"(?:[^"\\\n]|\\.)*")
    |(?P<name>[A-Za-z_]\w*)
    |(?P<mark>->|<<|>>|<=|>=|==|!=|&&|\|\||[-+*/%&|^~!<>?:;,.(){}\[\]=@]))""",
    re.VERBOSE,
)
_COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)
_PROBE = re.compile(r"\s*([A-Za-z_*][\w*-]*(?::[\w*-]*){0,3}|:[\w*-]*:[\w*-]*:[\w*-]*)\s*")
_ESCAPES = {"n": "\n", "t": "\t", "\\": "\\", '"': '"'}
_LEVELS = (
    ("||",), ("&&",), ("|",), ("^",), ("&",), ("==", "!="), ("<", ">", "<=", ">="), ("<<", ">>"), ("+", "-"),
    ("*", "/", "%"),
)  # fmt: skip


def parse(text: str) -> DProgram:
    """The tree of a program; raises :class:`DError`."""
    text = _COMMENT.sub(lambda match: "\n" * match[0].count("\n"), text)
    options, rest = {}, []
    for line in text.split("\n"):
        if not line.lstrip().startswith("#"):
            rest.append(line)
            continue
        match = re.fullmatch(r"\s*#pragma\s+D\s+option\s+(\w+)(?:=(\w+))?\s*", line)
        if match is None:
            raise DError(len(rest) + 1, f"unsupported directive: {line.strip()}")
        options[match[1]] = match[2] or ""
        rest.append("")
    return DProgram(options, _Parser("\n".join(rest)).clauses())


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    # --- tokens ------------------------------------------------------------------------------------------------

    @property
    def _line(self) -> int:
        return self._text.count("\n", 0, self._at) + 1

    def _refuse(self, message: str) -> DError:
        return DError(self._line, message)

    def _look(self) -> tuple[str, str]:
        match = _TOKEN.match(self._text, self._at)
        if match is None:
            left = self._text[self._at :].strip()
            if left:
                raise self._refuse(f'syntax error near "{left.split()[0]}"')
            return "end", ""
        kind = match.lastgroup or ""
        return kind, match[kind]

    def _take(self) -> tuple[str, str]:
        kind, text = self._look()
        match = _TOKEN.match(self._text, self._at)
        if match is not None:
            self._at = match.end()
        return kind, text

    def _if(self, mark: str) -> bool:
        if self._look() != ("mark", mark):
            return False
        self._take()
        return True

    def _expect(self, mark: str) -> None:
        if not self._if(mark):
            found = self._look()[1] or "end of input"
            raise self._refuse(f'syntax error near "{found}": expected "{mark}"')

    def _name(self) -> str:
        kind, text = self._take()
        if kind != "name":
            raise self._refuse(f'syntax error near "{text}": expected a name')
        return text

    # --- clauses -------------------------------------------------------------------------------------------------

    def clauses(self) -> tuple[Clause, ...]:
        found = []
        while self._look()[0] != "end":
            line = self._line
            probes = [self._probe()]
            while self._if(","):
                probes.append(self._probe())
            predicate = None
            if self._if("/"):
                predicate = self._predicate()
            body: tuple[Statement, ...] = ()
            if self._if("{"):
                body = self._body()
            else:
                raise self._refuse("a clause needs its actions in braces")
            found.append(Clause(tuple(probes), predicate, body, line))
        if not found:
            raise self._refuse("empty D program translation unit")
        return tuple(found)

    def _probe(self) -> str:
        match = _PROBE.match(self._text, self._at)
        if match is None:
            raise self._refuse(f'syntax error near "{self._look()[1]}": expected a probe description')
        self._at = match.end()
        return match[1]

    def _predicate(self) -> Expr:
        """``/`` ends it, so that it cannot contain a division."""
        end = re.compile(r"/\s*\{").search(self._text, self._at)
        if end is None:
            raise self._refuse("the predicate does not end before the actions")
        inner = _Parser(self._text[: end.start()])
        inner._at = self._at
        predicate = inner._expression()
        if inner._look()[0] != "end":
            raise inner._refuse(f'syntax error near "{inner._look()[1]}" in the predicate')
        self._at = end.start() + 1
        return predicate

    def _body(self) -> tuple[Statement, ...]:
        statements = []
        while not self._if("}"):
            if self._if(";"):
                continue
            statements.append(self._statement())
            if self._look() != ("mark", "}"):
                self._expect(";")
        return tuple(statements)

    # --- statements ----------------------------------------------------------------------------------------------

    def _statement(self) -> Statement:
        line = self._line
        if self._if("@"):
            return self._aggregate(line)
        name = self._name()
        if name in ("printf", "printa", "exit"):
            self._expect("(")
            if name == "printa":
                form = self._primary()
                self._expect(",")
                self._expect("@")
                statement = Statement("printa", self._name(), args=(form,), line=line)
                self._expect(")")
                return statement
            return Statement(name, args=self._list(")"), line=line)
        scope = "global"
        if name in ("self", "this") and self._if("->"):
            scope, name = name, self._name()
        if not self._if("="):
            raise self._refuse(f'"{name}" begins no statement that is supported here')
        return Statement("assign", name, scope, args=(self._expression(),), line=line)

    def _aggregate(self, line: int) -> Statement:
        name = self._name() if self._look()[0] == "name" else ""
        keys: tuple[Expr, ...] = self._list("]") if self._if("[") else ()
        self._expect("=")
        function = self._name()
        self._expect("(")
        args = self._list(")")
        if AGGREGATIONS.get(function) != len(args):
            raise self._refuse(f"{function}() with {len(args)} arguments is no aggregation that is supported here")
        return Statement("aggregate", name, keys=keys, function=function, args=args, line=line)

    def _list(self, end: str) -> tuple[Expr, ...]:
        found: list[Expr] = []
        while not self._if(end):
            if found:
                self._expect(",")
            found.append(self._expression())
        return tuple(found)

    # --- expressions -----------------------------------------------------------------------------------------------

    def _expression(self) -> Expr:
        line = self._line
        condition = self._binary(0)
        if not self._if("?"):
            return condition
        yes = self._expression()
        self._expect(":")
        return Expr("choose", args=(condition, yes, self._expression()), line=line)

    def _binary(self, level: int) -> Expr:
        if level == len(_LEVELS):
            return self._unary()
        left = self._binary(level + 1)
        while True:
            kind, text = self._look()
            if kind != "mark" or text not in _LEVELS[level]:
                return left
            self._take()
            left = Expr("binary", text, args=(left, self._binary(level + 1)), line=self._line)

    def _unary(self) -> Expr:
        for mark in ("!", "~", "-"):
            if self._if(mark):
                return Expr("unary", mark, args=(self._unary(),), line=self._line)
        return self._postfix(self._primary())

    def _postfix(self, inner: Expr) -> Expr:
        while True:
            arrow = self._if("->")
            if not arrow and not self._if("."):
                return inner
            inner = Expr("arrow" if arrow else "dot", self._name(), args=(inner,), line=self._line)

    def _primary(self) -> Expr:
        kind, text = self._take()
        line = self._line
        if kind == "number":
            return Expr("number", value=int(text, 0 if text[:2] in ("0x", "0X") else 10), line=line)
        if kind == "string":
            plain = re.sub(r"\\(.)", lambda found: _ESCAPES.get(found[1], found[1]), text[1:-1])
            return Expr("string", plain, line=line)
        if (kind, text) == ("mark", "("):
            if self._look() == ("name", "struct"):
                return self._cast(line)
            inner = self._expression()
            self._expect(")")
            return inner
        if kind == "name":
            return self._named(text, line)
        raise self._refuse(f'syntax error near "{text or "end of input"}"')

    def _cast(self, line: int) -> Expr:
        self._take()
        struct = self._name()
        self._expect("*")
        self._expect(")")
        return Expr("cast", struct, args=(self._unary(),), line=line)

    def _named(self, name: str, line: int) -> Expr:
        if name in ("self", "this") and self._if("->"):
            return Expr(name, self._name(), line=line)
        if not self._if("("):
            if name in BUILTINS:
                return Expr("builtin", name, line=line)
            return Expr("thread" if name == "curthread" else "global", name, line=line)
        if name == "offsetof":
            if self._name() != "struct":
                raise self._refuse("offsetof() needs a structure")
            struct = self._name()
            self._expect(",")
            member = self._name()
            self._expect(")")
            return Expr("offsetof", struct, args=(Expr("member", member),), line=line)
        args = self._list(")")
        if name == "stack" and len(args) <= 1:
            return Expr("stack", args=args, line=line)
        if name == "stringof" and [arg.op for arg in args] == ["arrow"] and args[0].text == "td_name":
            (pointer,) = args[0].args
            if pointer.op == "thread":
                return Expr("builtin", "td_name", line=line)
        raise self._refuse(f"{name}() is not supported here")
