"""Base-system programs: files, text, processes. As much of each as scripts here use."""

from __future__ import annotations

import hashlib
import posixpath
import re
import time

from harness.emulated.host import IDENT, OSRELDATE, RELEASE, EmulatedHost
from harness.emulated.shell import Context, Program
from harness.emulated.streams import Fixed, read_all
from harness.emulated.vfs import FileError, FileSystem
from harness.timing import CLOCK

TIMED_OUT = 124
_SIGNALS = {"HUP": 1, "INT": 2, "ABRT": 6, "KILL": 9, "TERM": 15, "STOP": 17, "CONT": 19}


def signal_number(text: str) -> int:
    """Number of a signal given as ``-KILL``, ``KILL``, ``-9`` or ``SIGKILL``."""
    name = text.lstrip("-").removeprefix("SIG")
    return int(name) if name.isdigit() else _SIGNALS.get(name, 15)


def _test(host: EmulatedHost, context: Context, words: list[str]) -> bool:
    if words and words[0] == "!":
        return not _test(host, context, words[1:])
    match words:
        case []:
            return False
        case [text]:
            return bool(text)
        case ["-z", text]:
            return not text
        case ["-n", text]:
            return bool(text)
        case [("-e" | "-f" | "-d" | "-c" | "-r" | "-x" | "-s") as what, path]:
            full = FileSystem.resolve(path, context.cwd)
            if what == "-d":
                return host.files.is_dir(full)
            if what == "-c":
                return host.files.device(full) is not None
            return host.files.exists(full)
        case [left, "=", right]:
            return left == right
        case [left, "!=", right]:
            return left != right
        case [left, ("-eq" | "-ne" | "-lt" | "-le" | "-gt" | "-ge") as op, right]:
            difference = int(left) - int(right)
            return {
                "-eq": difference == 0, "-ne": difference != 0, "-lt": difference < 0, "-le": difference <= 0,
                "-gt": difference > 0, "-ge": difference >= 0,
            }[op]  # fmt: skip
    return False


class BasePrograms:
    """Methods are programs; :meth:`table` names them."""

    def __init__(self, host: EmulatedHost) -> None:
        self.host = host
        self.files = host.files

    def table(self) -> dict[str, Program]:
        return {
            "true": lambda context, argv: 0, ":": lambda context, argv: 0, "sync": lambda context, argv: 0,
            "false": lambda context, argv: 1, "echo": self.echo, "printf": self.printf, "cat": self.cat, "ls": self.ls,
            "test": self.test, "[": self.test, "mkdir": self.mkdir, "rm": self.rm, "mv": self.mv, "cp": self.cp,
            "chmod": self.chmod, "touch": self.touch, "sha256": self.sha256, "stat": self.stat,
            "head": self.head, "tail": self.tail, "grep": self.grep, "wc": self.wc,
            "sleep": self.sleep, "timeout": self.timeout, "sh": self.sh,
            "uname": self.uname, "hostname": self.hostname, "id": self.id, "date": self.date, "kill": self.kill,
            "pgrep": self.pgrep, "ps": self.ps, "df": self.df, "which": self.which, "freebsd-version": self.version,
        }  # fmt: skip

    def _path(self, context: Context, path: str) -> str:
        return FileSystem.resolve(path, context.cwd)

    def echo(self, context: Context, argv: list[str]) -> int:
        newline = "" if argv[1:2] == ["-n"] else "\n"
        context.out(" ".join(argv[2 if not newline else 1 :]) + newline)
        return 0

    def printf(self, context: Context, argv: list[str]) -> int:
        text = argv[1].replace("\\n", "\n").replace("\\t", "\t")
        values = iter(argv[2:])
        context.out(re.sub(r"%([sd])", lambda match: next(values, ""), text).replace("%%", "%"))
        return 0

    def cat(self, context: Context, argv: list[str]) -> int:
        status = 0
        if len(argv) == 1:
            while data := context.stdin.read():
                context.stdout.write(data)
            return 0
        for name in argv[1:]:
            try:
                context.stdout.write(self.files.read(self._path(context, name)))
            except FileError as error:
                context.err(f"cat: {name}: {error}\n")
                status = 1
        return status

    def ls(self, context: Context, argv: list[str]) -> int:
        long = any(word.startswith("-") and "l" in word for word in argv[1:])
        names = [word for word in argv[1:] if not word.startswith("-")] or ["."]
        status = 0
        for name in names:
            path = self._path(context, name)
            if self.files.is_dir(path):
                entries = [(entry, f"{path.rstrip('/')}/{entry}") for entry in self.files.listing(path)]
            elif self.files.exists(path):
                entries = [(name, path)]
            else:
                context.err(f"ls: {name}: No such file or directory\n")
                status = 1
                continue
            for entry, full in entries:
                context.out(self._long(entry, full) if long else f"{entry}\n")
        return status

    def _long(self, name: str, path: str) -> str:
        if self.files.is_dir(path):
            return f"drwxr-xr-x  2 root  wheel   512 {name}\n"
        if self.files.device(path):
            return f"crw-------  1 root  wheel  0x5a {name}\n"
        return f"-rw-r--r--  1 root  wheel  {len(self.files.read(path))} {name}\n"

    def test(self, context: Context, argv: list[str]) -> int:
        words = argv[1:-1] if argv[0] == "[" else argv[1:]
        if "-a" in words:
            at = words.index("-a")
            return int(not (_test(self.host, context, words[:at]) and _test(self.host, context, words[at + 1 :])))
        return int(not _test(self.host, context, words))

    def mkdir(self, context: Context, argv: list[str]) -> int:
        parents = "-p" in argv
        status = 0
        skip = argv[argv.index("-m") + 1] if "-m" in argv else None
        for name in (word for word in argv[1:] if not word.startswith("-") and word != skip):
            try:
                self.files.mkdir(self._path(context, name), parents=parents)
            except FileError as error:
                context.err(f"mkdir: {name}: {error}\n")
                status = 1
        return status

    def rm(self, context: Context, argv: list[str]) -> int:
        flags = "".join(word[1:] for word in argv[1:] if word.startswith("-"))
        status = 0
        for name in (word for word in argv[1:] if not word.startswith("-")):
            path = self._path(context, name)
            try:
                if "r" in flags or "R" in flags:
                    self.files.rmtree(path)
                else:
                    self.files.remove(path)
            except FileError as error:
                if "f" not in flags:
                    context.err(f"rm: {name}: {error}\n")
                    status = 1
        return status

    def mv(self, context: Context, argv: list[str]) -> int:
        source, target = (self._path(context, name) for name in argv[-2:])
        if self.files.is_dir(target):
            target = posixpath.join(target, posixpath.basename(source))
        self.files.rename(source, target)
        return 0

    def cp(self, context: Context, argv: list[str]) -> int:
        source, target = (self._path(context, name) for name in argv[-2:])
        if self.files.is_dir(target):
            target = posixpath.join(target, posixpath.basename(source))
        self.files.write(target, self.files.read(source))
        return 0

    def chmod(self, context: Context, argv: list[str]) -> int:
        for name in argv[2:]:
            path = self._path(context, name)
            if not self.files.exists(path):
                context.err(f"chmod: {name}: No such file or directory\n")
                return 1
            if argv[1].isdigit():
                self.files.chmod(path, int(argv[1], 8))
        return 0

    def touch(self, context: Context, argv: list[str]) -> int:
        for name in argv[1:]:
            self.files.write(self._path(context, name), b"", append=True)
        return 0

    def sha256(self, context: Context, argv: list[str]) -> int:
        status = 0
        for name in (word for word in argv[1:] if not word.startswith("-")):
            try:
                digest = hashlib.sha256(self.files.read(self._path(context, name))).hexdigest()
            except FileError as error:
                context.err(f"sha256: {name}: {error}\n")
                status = 1
                continue
            context.out(f"{digest}\n" if "-q" in argv else f"SHA256 ({name}) = {digest}\n")
        return status

    def stat(self, context: Context, argv: list[str]) -> int:
        """``stat -f FORMAT FILE`` with ``%d %i %z %Fm %Fc`` only: device, inode, size, times."""
        if len(argv) != 4 or argv[1] != "-f":
            context.err("usage: stat -f format file\n")
            return 1
        try:
            path = self._path(context, argv[3])
            inode, changed = self.files.changed(path)
            size = len(self.files.read(path))
        except FileError as error:
            context.err(f"stat: {argv[3]}: stat: {error}\n")
            return 1
        known = {"%d": "90", "%i": str(inode), "%z": str(size), "%Fm": f"{changed}.0", "%Fc": f"{changed}.0"}
        context.out(re.sub(r"%F?[a-z]", lambda match: known.get(match[0], match[0]), argv[2]) + "\n")
        return 0

    def _input(self, context: Context, names: list[str]) -> bytes:
        if not names:
            return read_all(context.stdin)
        return b"".join(self.files.read(self._path(context, name)) for name in names)

    def head(self, context: Context, argv: list[str]) -> int:
        return self._part(context, argv, first=True)

    def tail(self, context: Context, argv: list[str]) -> int:
        if argv[1:] == ["-f", "/dev/null"]:
            while True:
                CLOCK.sleep(0.2)
                context.stdout.write(b"")
        return self._part(context, argv, first=False)

    def _part(self, context: Context, argv: list[str], *, first: bool) -> int:
        count, unit, names, words = 10, "n", [], argv[1:]
        while words:
            word = words.pop(0)
            if word in ("-n", "-c"):
                unit, count = word[1], int(words.pop(0))
            elif word.startswith("-") and word[1:].isdigit():
                count = int(word[1:])
            else:
                names.append(word)
        if first and unit == "c" and not names:
            # Exactly so many bytes: what follows on the stream belongs to the next command.
            while count and (data := context.stdin.read(min(count, 65536))):
                context.stdout.write(data)
                count -= len(data)
            return 0
        data = self._input(context, names)
        pieces = [data[at : at + 1] for at in range(len(data))] if unit == "c" else data.splitlines(keepends=True)
        context.stdout.write(b"".join(pieces[:count] if first else pieces[-count:]))
        return 0

    def grep(self, context: Context, argv: list[str]) -> int:
        flags = "".join(word[1:] for word in argv[1:] if word.startswith("-"))
        words = [word for word in argv[1:] if not word.startswith("-")]
        pattern = re.compile(words[0] if "F" not in flags else re.escape(words[0]), re.I if "i" in flags else 0)
        lines = self._input(context, words[1:]).decode("utf-8", "replace").splitlines()
        found = [line for line in lines if bool(pattern.search(line)) != ("v" in flags)]
        if "c" in flags:
            context.out(f"{len(found)}\n")
        elif "q" not in flags:
            context.out("".join(f"{line}\n" for line in found))
        return int(not found)

    def wc(self, context: Context, argv: list[str]) -> int:
        data = self._input(context, [word for word in argv[1:] if not word.startswith("-")])
        count = data.count(b"\n") if "-l" in argv else len(data)
        context.out(f"{count:8d}\n")
        return 0

    def sleep(self, context: Context, argv: list[str]) -> int:
        CLOCK.sleep(float(argv[1]))
        return 0

    def timeout(self, context: Context, argv: list[str]) -> int:
        """Only for bhyve, the one program here that can run for ever."""
        words, number = argv[1:], 15
        while words and words[0].startswith("-"):
            if words[0] == "-s":
                number = signal_number(words[1])
            words = words[2:] if words[0] in ("-s", "-k") else words[1:]
        seconds, words = float(words[0]), words[1:]
        program = self.host.find_program(words[0])
        if program is None:
            context.err(f"timeout: {words[0]}: No such file or directory\n")
            return 127
        context.variables["VMMCHECK_TIMEOUT"] = f"{time.monotonic() + seconds} {128 + number}"
        status = program(context, words)
        return TIMED_OUT if status == 128 + number else status

    def sh(self, context: Context, argv: list[str]) -> int:
        if "-c" in argv:
            return self.host.shell.run_text(argv[argv.index("-c") + 1], context)
        names = [word for word in argv[1:] if not word.startswith("-")]
        text = self.files.read(self._path(context, names[0])) if names else read_all(context.stdin)
        inner = Context(Fixed(), context.stdout, context.stderr, dict(context.variables), context.cwd)
        return self.host.shell.run_text(text.decode("utf-8", "replace"), inner)

    def uname(self, context: Context, argv: list[str]) -> int:
        flags = "".join(word[1:] for word in argv[1:]) or "s"
        kernel = f"FreeBSD {RELEASE} {IDENT}"
        order = {
            "s": "FreeBSD", "n": self._hostname(), "r": RELEASE, "v": kernel, "m": "amd64", "p": "amd64",
            "i": "GENERIC", "K": OSRELDATE, "U": OSRELDATE,
        }  # fmt: skip
        wanted = "snrvm" + "".join(flag for flag in flags if flag in "KU") if "a" in flags else flags
        context.out(" ".join(text for flag, text in order.items() if flag in wanted) + "\n")
        return 0

    def _hostname(self) -> str:
        return f"{IDENT}-{self.host.vendor}"

    def hostname(self, context: Context, argv: list[str]) -> int:
        context.out(self._hostname() + "\n")
        return 0

    def id(self, context: Context, argv: list[str]) -> int:
        context.out("0\n" if "-u" in argv else "uid=0(root) gid=0(wheel) groups=0(wheel)\n")
        return 0

    def date(self, context: Context, argv: list[str]) -> int:
        form = next((word[1:] for word in argv[1:] if word.startswith("+")), "%a %b %e %H:%M:%S UTC %Y")
        now = time.time() + self.host.clock_offset
        context.out(time.strftime(form.replace("%s", str(int(now))), time.gmtime(now)) + "\n")
        return 0

    def kill(self, context: Context, argv: list[str]) -> int:
        words = argv[1:]
        number = signal_number(words.pop(0)) if words and words[0].startswith("-") else 15
        status = 0
        for word in words:
            process = self.host.processes.get(int(word)) if word.isdigit() else None
            if process is None:
                context.err(f"kill: {word}: No such process\n")
                status = 1
            elif number in (17, 19):
                self.host.stop_process(process, number == 17)
            elif number:
                self.host.kill_process(process, 128 + number)
        return status

    def pgrep(self, context: Context, argv: list[str]) -> int:
        pattern = argv[-1]
        full = "-f" in argv
        found = [p.pid for p in self.host.processes.values() if re.search(pattern, p.command if full else "bhyve")]
        context.out("".join(f"{pid}\n" for pid in found))
        return int(not found)

    def ps(self, context: Context, argv: list[str]) -> int:
        context.out("  PID TT  STAT    TIME COMMAND\n")
        for process in self.host.processes.values():
            context.out(f"{process.pid:5d}  -  RC   0:00.10 {process.command}\n")
        return 0

    def df(self, context: Context, argv: list[str]) -> int:
        total, used = self.files.size // 1024, self.files.used() // 1024
        context.out("Filesystem 1024-blocks Used Avail Capacity Mounted on\n")
        context.out(f"/dev/ufs/root {total} {used} {total - used} {100 * used // max(total, 1)}% /\n")
        return 0

    def which(self, context: Context, argv: list[str]) -> int:
        for name in argv[1:]:
            if self.host.find_program(name) is None:
                return 1
            context.out(f"/usr/sbin/{name}\n")
        return 0

    def version(self, context: Context, argv: list[str]) -> int:
        context.out(f"{RELEASE}\n")
        return 0


