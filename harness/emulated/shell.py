"""Runs parsed scripts: every command of a pipeline in a thread of its own, streams between them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from harness.emulated.shellsyntax import (
    AndOr,
    Command,
    For,
    Group,
    If,
    Loop,
    Pipeline,
    Redirect,
    Script,
    Simple,
    parse,
)
from harness.emulated.shellwords import SyntaxRefused, Word
from harness.emulated.streams import Collect, Fixed, Function, Pipe, Reader, Writer
from harness.emulated.vfs import FileError, FileSystem


class Exit(Exception):
    """``exit`` was called, or the process running the script was killed."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


@dataclass(slots=True)
class Context:
    """What a command is run with."""

    stdin: Reader
    stdout: Writer
    stderr: Writer
    variables: dict[str, str] = field(default_factory=dict)
    cwd: str = "/root"

    def copy(self) -> Context:
        """Another one with the same streams and the same variables (``dataclasses.replace`` takes five times as long,
        and there is a copy for every command)."""
        return Context(self.stdin, self.stdout, self.stderr, self.variables, self.cwd)

    def child(self) -> Context:
        """One for a process of its own: what it does to its variables stays there."""
        return Context(self.stdin, self.stdout, self.stderr, dict(self.variables), self.cwd)

    def out(self, text: str) -> None:
        self.stdout.write(text.encode())

    def err(self, text: str) -> None:
        self.stderr.write(text.encode())


#: A command: its words (the first is its name) and the context; returns the exit status.
Program = Callable[[Context, list[str]], int]


class Shell:
    """``/bin/sh``: finds programs through ``lookup``, files in ``files``."""

    def __init__(self, files: FileSystem, lookup: Callable[[str], Program | None]) -> None:
        self._files = files
        self._lookup = lookup

    def run_text(self, text: str, context: Context) -> int:
        """Run a script and return its exit status; 2 for a syntax error."""
        jobs: list[threading.Thread] = []
        try:
            return self._script(parse(text), context, jobs)
        except SyntaxRefused as error:
            context.err(f"sh: {error}\n")
            return 2
        except Exit as done:
            return done.status

    def run_program(self, context: Context, argv: list[str]) -> int:
        """Run one program, as another program does; 127 when there is none."""
        program = self._lookup(argv[0]) if argv else None
        if program is None:
            context.err(f"{' '.join(argv[:1])}: not found\n")
            return 127
        return program(context, argv)

    # --- structure -----------------------------------------------------------------------------------

    def _script(self, script: Script, context: Context, jobs: list[threading.Thread]) -> int:
        status = int(context.variables.get("?", "0"))
        for item in script.items:
            if item.background:
                child = context.child()
                child.stdin = Fixed()
                thread = threading.Thread(target=self._background, args=(item, child), daemon=True)
                jobs.append(thread)
                thread.start()
                status = 0
            else:
                status = self._and_or(item, context, jobs)
            context.variables["?"] = str(status)
        return status

    def _background(self, item: AndOr, context: Context) -> None:
        with suppress(Exit, BrokenPipeError):
            self._and_or(item, context, [])

    def _and_or(self, item: AndOr, context: Context, jobs: list[threading.Thread]) -> int:
        status = 0
        for operator, pipeline in item.items:
            if (operator == "&&" and status != 0) or (operator == "||" and status == 0):
                continue
            status = self._pipeline(pipeline, context, jobs)
            context.variables["?"] = str(status)
        return status

    def _pipeline(self, pipeline: Pipeline, context: Context, jobs: list[threading.Thread]) -> int:
        commands = pipeline.commands
        single = len(commands) == 1
        status = self._command(commands[0], context, jobs) if single else self._stages(commands, context)
        return int(status == 0) if pipeline.negated else status

    def _stages(self, commands: tuple[Command, ...], context: Context) -> int:
        statuses = [0] * len(commands)
        threads = []
        reader: Reader = context.stdin
        for index, command in enumerate(commands):
            last = index == len(commands) - 1
            pipe = Pipe()
            child = context.child()
            child.stdin = reader
            if last:
                self._stage(command, child, pipe, statuses, index)
                break
            child.stdout = pipe
            thread = threading.Thread(target=self._stage, args=(command, child, pipe, statuses, index), daemon=True)
            thread.start()
            threads.append(thread)
            reader = pipe
        for thread in threads:
            thread.join()
        return statuses[-1]

    def _stage(self, command: Command, context: Context, out: Pipe, statuses: list[int], index: int) -> None:
        try:
            statuses[index] = self._command(command, context, [])
        except Exit as done:
            statuses[index] = done.status
        except BrokenPipeError:
            statuses[index] = 141
        finally:
            out.close()
            if isinstance(context.stdin, Pipe):
                context.stdin.abandon()

    def _command(self, command: Command, context: Context, jobs: list[threading.Thread]) -> int:
        match command:
            case Simple():
                return self._simple(command, context, jobs)
            case Group(body, subshell, redirects):
                inner = self._redirected(redirects, context)
                if subshell:
                    inner = inner.child()
                try:
                    return self._script(body, inner, [] if subshell else jobs)
                except Exit as done:
                    if not subshell:
                        raise
                    return done.status
            case If(branches, otherwise):
                for condition, body in branches:
                    if self._script(condition, context, jobs) == 0:
                        return self._script(body, context, jobs)
                return self._script(otherwise, context, jobs) if otherwise is not None else 0
            case Loop(condition, body, until):
                status = 0
                while (self._script(condition, context, jobs) == 0) != until:
                    status = self._script(body, context, jobs)
                return status
            case For(name, words, body):
                status = 0
                for value in self._expand_all(words, context):
                    context.variables[name] = value
                    status = self._script(body, context, jobs)
                return status

    # --- simple commands -------------------------------------------------------------------------------

    def _simple(self, command: Simple, context: Context, jobs: list[threading.Thread]) -> int:
        argv = self._expand_all(command.words, context)
        values = {name: "".join(self._expand(word, context)) for name, word in command.assignments}
        if not argv:
            context.variables.update(values)
            return int(context.variables.get("?", "0")) if any(
                part.kind == "command" for _, word in command.assignments for part in word
            ) else 0
        try:
            inner = self._redirected(command.redirects, context)
        except FileError as error:
            context.err(f"sh: cannot open: {error}\n")
            return 2
        try:
            inner.variables = context.variables | values
            return self._invoke(argv, inner, context, jobs)
        except FileError as error:
            context.err(f"{argv[0]}: {error}\n")
            return 1

    def _invoke(self, argv: list[str], inner: Context, context: Context, jobs: list[threading.Thread]) -> int:
        match argv[0]:
            case "exit":
                raise Exit(int(argv[1]) if len(argv) > 1 else int(context.variables.get("?", "0")))
            case "wait":
                for job in jobs:
                    job.join()
                return 0
            case "cd":
                context.cwd = FileSystem.resolve(argv[1] if len(argv) > 1 else "/root", context.cwd)
                return 0
            case "export" | "set" | "umask" | "trap":
                return 0
            case "exec":
                raise Exit(self._invoke(argv[1:], inner, context, jobs))
        return self.run_program(inner, argv)

    def _redirected(self, redirects: tuple[Redirect, ...], context: Context) -> Context:
        inner = context.copy()
        for redirect in redirects:
            target = "".join(self._expand(redirect.target, context))
            if redirect.op in (">&", "<&"):
                source: Writer = inner.stdout if target == "1" else inner.stderr
                if redirect.fd == 1:
                    inner.stdout = source
                elif redirect.fd == 2:
                    inner.stderr = source
                continue
            path = FileSystem.resolve(target, context.cwd)
            if redirect.op == "<":
                inner.stdin = Fixed(self._files.read(path))
                continue
            writer = self._file_writer(path, append=redirect.op == ">>")
            if redirect.fd == 2:
                inner.stderr = writer
            else:
                inner.stdout = writer
        return inner

    def _file_writer(self, path: str, *, append: bool) -> Writer:
        if path == "/dev/null":
            return Collect()
        if not append or not self._files.exists(path):
            self._files.write(path, b"")
        return Function(lambda data: self._files.write(path, data, append=True))

    # --- expansion --------------------------------------------------------------------------------------------

    def _expand_all(self, words: tuple[Word, ...], context: Context) -> list[str]:
        return [text for word in words for text in self._expand(word, context)]

    def _expand(self, word: Word, context: Context) -> list[str]:
        """Zero or more fields: unquoted expansions are split at white space."""
        fields: list[str] = []
        current, started = "", False
        for part in word:
            if part.kind == "text":
                current, started = current + part.text, True
                continue
            value = self._value(part.kind, part.text, context)
            if part.quoted:
                current, started = current + value, True
                continue
            pieces = value.split()
            if not pieces:
                continue
            if value[:1].isspace() and started and current:
                fields.append(current)
                current = ""
            for piece in pieces[:-1]:
                fields.append(current + piece)
                current = ""
            current, started = current + pieces[-1], True
        if started:
            fields.append(current)
        return fields

    def _value(self, kind: str, text: str, context: Context) -> str:
        if kind == "var":
            return context.variables.get(text, "")
        collect = Collect()
        child = context.child()
        child.stdout = collect
        with suppress(BrokenPipeError):
            context.variables["?"] = str(self.run_text(text, child))
        # sh takes no NUL into a variable.
        return collect.data.replace(b"\0", b"").decode("utf-8", "replace").rstrip("\n")
