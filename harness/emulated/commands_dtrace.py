"""dtrace(1) on the emulated host: probe listing, and D programs run on function boundary tracing of the kernel.

Options, messages and exit statuses are those of dtrace(1); which D is understood says :mod:`harness.emulated.dlang`.
One dtrace runs at a time.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field

from harness.emulated.ctl import KernelError
from harness.emulated.dconsumer import Consumer, NoSuchProbe, Probe, Probes
from harness.emulated.dlang import DError, DProgram, parse
from harness.emulated.drun import Compiler
from harness.emulated.fbt import FunctionTracer
from harness.emulated.host import EmulatedHost
from harness.emulated.kerneltypes import running_kernel
from harness.emulated.shell import Context, Program
from harness.emulated.vfs import FileError, FileSystem
from harness.errors import EmulatorFailed

EX_FAILED, EX_USAGE = 1, 2
#: Seconds between two looks at the records while the program runs.
PERIOD = 0.25
_KNOWN_OPTIONS = ("quiet", "switchrate", "aggrate", "statusrate", "bufsize", "aggsize", "strsize", "nolibs", "temporal")
_USAGE = (
    "Usage: dtrace [-FlqVwZ] [-c cmd] [-x opt[=val]] [-P provider] [-m module] [-f function] [-n name]\n"
    "\t[-s script]\n"
)


@dataclass(slots=True)
class Options:
    """The command line: ``descriptions`` are of -P, -m, -f, -n without actions, ``programs`` (label, text)."""

    listing: bool = False
    quiet: bool = False
    version: bool = False
    lenient: bool = False
    command: str = ""
    descriptions: list[str] = field(default_factory=list)
    programs: list[tuple[str, str]] = field(default_factory=list)
    scripts: list[str] = field(default_factory=list)
    extra: dict[str, str] = field(default_factory=dict)


class _Usage(Exception):
    pass


def parse_options(argv: list[str]) -> Options:
    """getopt's way with ``-qn PROGRAM``; raises :class:`_Usage`."""
    options, words = Options(), argv[1:]
    while words:
        word = words.pop(0)
        if not word.startswith("-") or len(word) < 2:
            raise _Usage(f"dtrace: unexpected argument '{word}'")
        for at, letter in enumerate(word[1:], start=1):
            if letter in "lqVZw":
                options.listing |= letter == "l"
                options.quiet |= letter == "q"
                options.version |= letter == "V"
                options.lenient |= letter == "Z"
                continue
            if letter not in "cxPmfns":
                raise _Usage(f"dtrace: illegal option -- {letter}")
            value = word[at + 1 :] or (words.pop(0) if words else "")
            if not value:
                raise _Usage(f"dtrace: option requires an argument -- {letter}")
            _take_value(options, letter, value)
            break
    return options


def _take_value(options: Options, letter: str, value: str) -> None:
    if letter == "c":
        options.command = value
    elif letter == "x":
        name, _, text = value.partition("=")
        options.extra[name] = text
    elif letter == "s":
        options.scripts.append(value)
    elif letter == "n" and ("{" in value or "/" in value):
        options.programs.append((value.partition("{")[0].strip(), value))
    else:
        form = {"P": "{}:::", "m": ":{}::", "f": "::{}:", "n": "{}"}[letter]
        options.descriptions.append(form.format(value))


class DtracePrograms:
    """The ``dtrace`` command of one host."""

    def __init__(self, host: EmulatedHost) -> None:
        self.host = host

    def table(self) -> dict[str, Program]:
        return {"dtrace": self.dtrace}

    def dtrace(self, context: Context, argv: list[str]) -> int:
        try:
            options = parse_options(argv)
        except _Usage as error:
            context.err(f"{error}\n{_USAGE}")
            return EX_USAGE
        if options.version:
            context.out("dtrace: Sun D 1.13\n")
            return 0
        for name in options.extra:
            if name not in _KNOWN_OPTIONS:
                context.err(f"dtrace: failed to set -x {name}: Invalid option name\n")
                return EX_FAILED
        try:
            if options.listing:
                return self._list(context, options)
            return self._compile_and_run(context, options)
        except EmulatorFailed:
            context.err("dtrace: processing aborted: Abort due to systemic unresponsiveness\n")
            return EX_FAILED

    def _probes(self, tracer: FunctionTracer) -> Probes:
        return Probes(running_kernel(), tracer, self.host.module("vmm.ko") is not None)

    # --- listing --------------------------------------------------------------------------------------------------

    def _list(self, context: Context, options: Options) -> int:
        probes = self._probes(FunctionTracer(self.host.machine))
        context.out(f"{'ID':>5} {'PROVIDER':>10} {'MODULE':>17} {'FUNCTION':>33} NAME\n")
        for description in options.descriptions or [""]:
            found: list[Probe] = list(probes.listing(description))
            for probe in found:
                where = f"{probe.provider:>10} {probe.module:>17} {probe.function:>33} {probe.name}"
                context.out(f"{probe.id:5d} {where}\n")
            if not found:
                # The status is 0 nevertheless, as it is on FreeBSD.
                context.err(f"dtrace: failed to match {description}: No probe matches description\n")
        return 0

    # --- programs --------------------------------------------------------------------------------------------------

    def _compile_and_run(self, context: Context, options: Options) -> int:
        programs = [*options.programs, *((one, f"{one}{{}}") for one in options.descriptions)]
        sources = [(f"description '{label}'", text, f"invalid probe specifier {text}") for label, text in programs]
        for script in options.scripts:
            try:
                text = self.host.files.read(FileSystem.resolve(script, context.cwd)).decode("utf-8", "replace")
            except FileError as error:
                context.err(f"dtrace: failed to open {script}: {error}\n")
                return EX_FAILED
            sources.append((f"script '{script}'", text, f"failed to compile script {script}: line {{line}}"))
        if not sources:
            context.err(_USAGE)
            return EX_USAGE
        if len(sources) > 1:
            context.err("dtrace: only one program at a time is supported here\n")
            return EX_USAGE
        label, text, refused = sources[0]
        tracer = FunctionTracer(self.host.machine)
        try:
            consumer, quiet = self._compile(text, tracer, options)
        except DError as error:
            where = refused.replace("{line}", str(error.line))
            line = "" if "{line}" in refused else f"line {error.line}: "
            context.err(f"dtrace: {where}: {line}{error.message}\n")
            return EX_FAILED
        except NoSuchProbe as error:
            context.err(
                f"dtrace: {refused.replace('{line}', '1')}: probe description {error} does not match any probes\n"
            )
            return EX_FAILED
        if not quiet:
            plural = "" if consumer.matched == 1 else "s"
            context.err(f"dtrace: {label} matched {consumer.matched} probe{plural}\n")
        return self._run(context, consumer, options, quiet)

    def _compile(self, text: str, tracer: FunctionTracer, options: Options) -> tuple[Consumer, bool]:
        program: DProgram = parse(text)
        for name in program.options:
            if name not in _KNOWN_OPTIONS:
                raise DError(1, f"failed to set option '{name}' to '{program.options[name]}': Invalid option name")
        quiet = options.quiet or "quiet" in program.options or "quiet" in options.extra
        types = running_kernel()
        consumer = Consumer(Compiler(program, types, quiet=quiet), self._probes(tracer), tracer, types)
        consumer.resolve()
        return consumer, quiet

    def _run(self, context: Context, consumer: Consumer, options: Options, quiet: bool) -> int:
        if not self.host.trace_with(consumer):
            context.err("dtrace: failed to enable: another dtrace runs, and there is one at a time here\n")
            return EX_FAILED
        try:
            try:
                consumer.enable()
            except KernelError as error:
                context.err(f"dtrace: failed to enable: errno {error.errno}\n")
                return EX_FAILED
            if not quiet:
                context.out(f"CPU     ID {'FUNCTION:NAME':>32}\n")
            consumer.fire("BEGIN")
            self._flush(context, consumer)
            status = self._follow(context, consumer, options)
        finally:
            self.host.trace_with(None)
            consumer.disable()
        consumer.fire("END")
        self._flush(context, consumer)
        context.out(consumer.rest())
        return consumer.state.exit_status if consumer.state.exit_status is not None else status

    def _follow(self, context: Context, consumer: Consumer, options: Options) -> int:
        """Until the command ended, the program left, or the time is over; the status when nothing else decides."""
        done = threading.Event()
        if options.command:
            words = options.command.split()
            program = self.host.find_program(words[0])
            if program is None:
                context.err(f"dtrace: failed to execute {words[0]}: No such file or directory\n")
                return EX_FAILED
            threading.Thread(target=_attend, args=(program, context, words, done), daemon=True).start()
        limit, status = context.variables.get("VMMCHECK_TIMEOUT", "inf 0").split()
        started = time.monotonic()
        ticks = {seconds: started + seconds for seconds in consumer.ticks}
        while not done.wait(PERIOD) and consumer.state.exit_status is None:
            if not self.host.booted.is_set():
                raise EmulatorFailed("The emulated machine went down.")
            # Between guests nothing is recorded, and the machine may rest.
            if self.host.processes:
                consumer.drain()
            now = time.monotonic()
            for seconds, due in ticks.items():
                if now >= due:
                    consumer.drain()
                    consumer.fire(f"tick-{seconds:.0f}s")
                    ticks[seconds] = due + seconds
            self._flush(context, consumer)
            if now >= float(limit):
                return int(status)
        return 0

    @staticmethod
    def _flush(context: Context, consumer: Consumer) -> None:
        text, consumer.state.output = "".join(consumer.state.output), []
        if text:
            context.out(text)
        for error in consumer.errors:
            context.err(error)
        consumer.errors = []


def _attend(program: Program, context: Context, words: list[str], done: threading.Event) -> None:
    try:
        program(context, words)
    finally:
        done.set()
