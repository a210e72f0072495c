"""Carries out a D program (:mod:`harness.emulated.dlang`) on the records of function boundary tracing."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from harness.emulated.dlang import Clause, DError, DProgram, Expr, Statement
from harness.emulated.dprint import DIRECTIVE, Value, ordered, render
from harness.emulated.kerneltypes import KernelTypes

_MASK = (1 << 64) - 1
MAX_VALUES = 12
MAX_STEPS = 3
WANT_RESULT, WANT_FRAMES, WANT_EACH = 1 << 5, 1 << 6, 1 << 8


class ActionFailed(Exception):
    """An action met an address that is no memory: the rest of its clause is not carried out."""


@dataclass(frozen=True, slots=True)
class Fetch:
    """Memory that the kernel copies when an entry probe fires (``struct fbt_value``)."""

    argument: int
    offsets: tuple[int, ...]
    bytes: int


@dataclass(frozen=True, slots=True)
class Firing:
    """A probe that fired. ``weight`` stands for so many times in a row that cannot be told apart."""

    probe: str = ""
    name: str = ""
    function: str = ""
    cpu: int = 0
    tid: int = 0
    pid: int = 0
    execname: str = ""
    td_name: str = ""
    args: tuple[int, ...] = (0, 0, 0, 0, 0)
    values: tuple[int, ...] = ()
    faults: int = 0
    stack: tuple[str, ...] = ()
    timestamp: int = 0
    weight: int = 1


@dataclass(slots=True)
class State:
    """Variables and aggregations of a running program, and what it has printed."""

    globals: dict[str, Value] = field(default_factory=dict)
    threads: dict[int, dict[str, Value]] = field(default_factory=dict)
    aggregations: dict[str, dict[tuple[Value, ...], int]] = field(default_factory=dict)
    printed: set[str] = field(default_factory=set)
    output: list[str] = field(default_factory=list)
    exit_status: int | None = None
    this: dict[str, Value] = field(default_factory=dict)

    def variables(self) -> tuple[object, ...]:
        """Everything that a later firing may depend on."""
        threads = tuple((tid, tuple(sorted(own.items()))) for tid, own in sorted(self.threads.items()))
        return tuple(sorted(self.globals.items())), threads, len(self.output), self.exit_status


Evaluate = Callable[[State, Firing], Value]
Act = Callable[[State, Firing], None]


def signed(value: int) -> int:
    """The 64-bit integer with the same bits."""
    value &= _MASK
    return value - (1 << 64) if value >> 63 else value


class Compiler:
    """Turns clauses into functions and collects what their probes have to copy."""

    def __init__(self, program: DProgram, types: KernelTypes, *, quiet: bool) -> None:
        self._types = types
        self._quiet = quiet
        self._line = 0
        self.fetches: list[Fetch] = []
        self.mask = 0
        self.functions: dict[str, str] = {}
        self.clauses: list[tuple[Clause, Act]] = [(clause, self._clause(clause)) for clause in program.clauses]

    # --- clauses and statements --------------------------------------------------------------------------------

    def _clause(self, clause: Clause) -> Act:
        predicate = self._expr(clause.predicate) if clause.predicate is not None else None
        acts = [self._statement(statement) for statement in clause.body]
        told = not self._quiet and (
            not clause.body or any(statement.op in ("printf", "exit") for statement in clause.body)
        )

        def run(state: State, firing: Firing) -> None:
            if predicate is not None and not predicate(state, firing):
                return
            if told:
                where = f"{firing.function}:{firing.name}"
                state.output.append(f"{firing.cpu:3d} {_probe_id(firing.probe):6d} {where:>32} ")
            for act in acts:
                act(state, firing)
            if told:
                state.output.append("\n")

        return run

    def _statement(self, statement: Statement) -> Act:
        self._line = statement.line
        args = [self._expr(arg) for arg in statement.args]
        match statement.op:
            case "assign":
                return self._assign(statement, args[0])
            case "aggregate":
                return self._aggregate(statement, args)
            case "printf":
                return self._printf(statement, args)
            case "printa":
                return self._printa(statement)

        def leave(state: State, firing: Firing) -> None:
            if state.exit_status is None:
                state.exit_status = _int(args[0](state, firing)) & 0xFF

        if len(args) != 1:
            raise DError(statement.line, "exit() takes one argument")
        return leave

    def _assign(self, statement: Statement, value: Evaluate) -> Act:
        name, scope = statement.name, statement.scope

        def assign(state: State, firing: Firing) -> None:
            if scope == "self":
                state.threads.setdefault(firing.tid, {})[name] = value(state, firing)
            else:
                (state.this if scope == "this" else state.globals)[name] = value(state, firing)

        return assign

    def _aggregate(self, statement: Statement, args: list[Evaluate]) -> Act:
        name, function = statement.name, statement.function
        if self.functions.setdefault(name, function) != function:
            raise DError(statement.line, f"aggregation redefined: @{name}")
        keys = [self._expr(key) for key in statement.keys]

        def aggregate(state: State, firing: Firing) -> None:
            values = state.aggregations.setdefault(name, {})
            key = tuple([key(state, firing) for key in keys])
            new = _int(args[0](state, firing)) if args else 1
            if function in ("count", "sum"):
                values[key] = values.get(key, 0) + new * firing.weight
            else:
                values[key] = (min if function == "min" else max)(values.get(key, new), new)

        return aggregate

    def _printf(self, statement: Statement, args: list[Evaluate]) -> Act:
        if not statement.args or statement.args[0].op != "string":
            raise DError(statement.line, "printf() needs a format string")
        form, rest = statement.args[0].text, args[1:]
        wanted = len([one for one in DIRECTIVE.finditer(form) if one["kind"] != "%"])
        if wanted != len(rest):
            raise DError(statement.line, f"printf() prototype mismatch: {wanted} conversions, {len(rest)} arguments")

        def show(state: State, firing: Firing) -> None:
            state.output.append(render(form, [arg(state, firing) for arg in rest], 0))

        return show

    def _printa(self, statement: Statement) -> Act:
        if statement.args[0].op != "string":
            raise DError(statement.line, "printa() needs a format string here")
        form, name = statement.args[0].text, statement.name

        def show(state: State, _: Firing) -> None:
            state.printed.add(name)
            for key, value in ordered(state.aggregations.get(name, {})):
                state.output.append(render(form, key, value))

        return show

    # --- expressions ---------------------------------------------------------------------------------------------

    def _expr(self, expr: Expr) -> Evaluate:
        self._line = expr.line or self._line
        match expr.op:
            case "number":
                number = signed(expr.value)
                return lambda _state, _firing: number
            case "string":
                text = expr.text
                return lambda _state, _firing: text
            case "self":
                name = expr.text
                return lambda state, firing: state.threads.get(firing.tid, {}).get(name, 0)
            case "this" | "global":
                name, local = expr.text, expr.op == "this"
                return lambda state, _firing: (state.this if local else state.globals).get(name, 0)
            case "builtin":
                return self._builtin(expr.text)
            case "offsetof":
                offset = self._member(expr.text, expr.args[0].text).offset
                return lambda _state, _firing: offset
            case "stack":
                depth = expr.args[0].value if expr.args else MAX_STEPS * 2
                self.mask |= WANT_FRAMES
                return lambda _state, firing: firing.stack[:depth]
            case "unary":
                return self._unary(expr)
            case "binary":
                return self._binary(expr)
            case "choose":
                condition, yes, no = (self._expr(arg) for arg in expr.args)
                return lambda state, firing: (yes if condition(state, firing) else no)(state, firing)
            case "arrow" | "dot":
                return self._fetch(expr)
        raise DError(self._line, f'"{expr.text or expr.op}" cannot be used like this here')

    def _builtin(self, name: str) -> Evaluate:
        if name.startswith("arg"):
            number = int(name[3:])
            # The second argument of a return probe is the result.
            self.mask |= 1 << number | (WANT_RESULT if number == 1 else 0)
            return lambda _state, firing: signed(firing.args[number])
        if name == "timestamp":
            self.mask |= WANT_EACH
        attribute = {"probename": "name", "probefunc": "function"}.get(name, name)
        return lambda _state, firing: getattr(firing, attribute)

    def _unary(self, expr: Expr) -> Evaluate:
        inner = self._expr(expr.args[0])
        if expr.text == "!":
            return lambda state, firing: int(not inner(state, firing))
        if expr.text == "~":
            return lambda state, firing: ~_int(inner(state, firing))
        return lambda state, firing: signed(-_int(inner(state, firing)))

    def _binary(self, expr: Expr) -> Evaluate:
        left, right = (self._expr(arg) for arg in expr.args)
        if expr.text == "&&":
            return lambda state, firing: int(bool(left(state, firing)) and bool(right(state, firing)))
        if expr.text == "||":
            return lambda state, firing: int(bool(left(state, firing)) or bool(right(state, firing)))
        if expr.text in ("==", "!="):
            equal = expr.text == "=="
            return lambda state, firing: int((left(state, firing) == right(state, firing)) == equal)
        operate = _OPERATORS[expr.text]
        return lambda state, firing: operate(_int(left(state, firing)), _int(right(state, firing)))

    # --- memory ----------------------------------------------------------------------------------------------------

    def _member(self, struct: str, name: str) -> _Place:
        members = self._types.struct(struct)
        if members is None:
            raise DError(self._line, f"failed to resolve type struct {struct}: Unknown type name")
        if name not in members:
            raise DError(self._line, f"{name} is not a member of struct {struct}")
        member = members[name]
        return _Place(0, (), member.offset, member.kind, member.struct, member.bytes)

    def _fetch(self, expr: Expr) -> Evaluate:
        place = self._place(expr)
        if place.kind not in ("int", "pointer") or place.bytes not in (1, 2, 4, 8):
            raise DError(expr.line, f"{expr.text} is neither an integer nor a pointer")
        fetch = Fetch(place.argument, (*place.steps, place.offset), place.bytes)
        if len(fetch.offsets) > MAX_STEPS:
            raise DError(expr.line, f"more than {MAX_STEPS} pointers in one expression")
        if fetch not in self.fetches:
            self.fetches.append(fetch)
        if len(self.fetches) > MAX_VALUES:
            raise DError(expr.line, f"more than {MAX_VALUES} different members in one program")
        number = self.fetches.index(fetch)

        def value(_: State, firing: Firing) -> Value:
            if firing.faults >> number & 1 or number >= len(firing.values):
                raise ActionFailed("invalid address")
            return signed(firing.values[number])

        return value

    def _place(self, expr: Expr) -> _Place:
        """Where a member is: it must be reached by a pointer that an argument is cast to."""
        inner = expr.args[0]
        if expr.op == "dot":
            base = self._place(inner)
            if base.kind != "struct":
                raise DError(expr.line, f"{inner.text} is no structure")
        elif inner.op == "cast":
            argument, offset = self._linear(inner.args[0])
            base = _Place(argument, (), offset, "struct", inner.text, 0)
        elif inner.op in ("arrow", "dot"):
            pointer = self._place(inner)
            if pointer.kind != "pointer":
                raise DError(expr.line, f"{inner.text} is no pointer")
            base = _Place(pointer.argument, (*pointer.steps, pointer.offset), 0, "struct", pointer.struct, 0)
        else:
            raise DError(expr.line, f"{expr.text}: only an argument of the probe can be made a pointer here")
        member = self._member(base.struct, expr.text)
        offset = base.offset + member.offset
        return _Place(base.argument, base.steps, offset, member.kind, member.struct, member.bytes)

    def _linear(self, expr: Expr) -> tuple[int, int]:
        """(number of the argument, constant added to it)."""
        if expr.op == "builtin" and re.fullmatch(r"arg[0-4]", expr.text):
            return int(expr.text[3:]), 0
        if expr.op == "binary" and expr.text in "+-":
            argument, offset = self._linear(expr.args[0])
            constant = self._expr(expr.args[1])
            if expr.args[1].op in ("number", "offsetof"):
                added = _int(constant(State(), Firing()))
                return argument, offset + (added if expr.text == "+" else -added)
        message = "only an argument of the probe, plus or minus a constant, can be cast to a pointer here"
        raise DError(self._line, message)


@dataclass(frozen=True, slots=True)
class _Place:
    argument: int
    steps: tuple[int, ...]
    offset: int
    kind: str
    struct: str
    bytes: int


_OPERATORS: dict[str, Callable[[int, int], int]] = {
    "+": lambda a, b: signed(a + b),
    "-": lambda a, b: signed(a - b),
    "*": lambda a, b: signed(a * b),
    "/": lambda a, b: signed(int(a / b)) if b else _divide(),
    "%": lambda a, b: signed(abs(a) % abs(b) * (-1 if a < 0 else 1)) if b else _divide(),
    "&": lambda a, b: a & b,
    "|": lambda a, b: a | b,
    "^": lambda a, b: a ^ b,
    "<<": lambda a, b: signed(a << (b & 63)),
    ">>": lambda a, b: a >> (b & 63),
    "<": lambda a, b: int(a < b),
    ">": lambda a, b: int(a > b),
    "<=": lambda a, b: int(a <= b),
    ">=": lambda a, b: int(a >= b),
}


def _divide() -> int:
    raise ActionFailed("divide-by-zero")


def _int(value: Value) -> int:
    if not isinstance(value, int):
        raise ActionFailed("operand is no integer")
    return value


def _probe_id(probe: str) -> int:
    return int(probe) if probe.isdigit() else 0
