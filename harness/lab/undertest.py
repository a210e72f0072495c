"""Where the vmm.ko under test comes from: the stock one, a file there or here, or sources built for the run."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from harness.errors import BuildFailed, ConfigError
from harness.inventory import FreebsdMachine
from harness.inventory.model import STOCK_MODULE, Builder

#: An ELF file of type REL, which a kernel module of amd64 is.
_ELF = b"\x7fELF\x02\x01\x01"
#: Section that holds the types, without which dtrace knows no member of any structure.
_CTF = b".SUNW_ctf\0"


@dataclass(frozen=True, slots=True)
class UnderTest:
    """``path`` on the host when it is there already; otherwise ``data`` has to be put there first."""

    path: str
    data: bytes | None = None
    origin: str = "stock"
    #: The vmm_dev.h of the sources it was built from, where a whole tree was at hand.
    header: str = ""

    @property
    def stock(self) -> bool:
        """Whether it is the module that the host boots with."""
        return self.path == STOCK_MODULE

    def as_dict(self) -> dict[str, str]:
        """For the report."""
        facts = {"module_origin": self.origin}
        if self.data is not None:
            facts["module_built_sha256"] = hashlib.sha256(self.data).hexdigest()
            facts["module_ctf"] = "yes" if _CTF in self.data else "no"
        return facts


def module_of(entry: FreebsdMachine, folder: str, work: Path | None) -> UnderTest:
    """What the inventory wants tested; ``folder`` is ours on the host, ``work`` one of ours here.

    Raises :class:`ConfigError`: the file is not there, is no module, or the build failed (with the build's own end).
    """
    path = f"{folder}/vmm.ko"
    if entry.builder is not None:
        if work is None:
            raise ConfigError("A module can only be built inside of a run: there is no folder to build it in.")
        data = module_data(build(entry.builder, work))
        return UnderTest(path, data, f"built from {entry.builder.source}", _header(work / "source"))
    if entry.module_file:
        file = Path(entry.module_file).expanduser()
        return UnderTest(path, module_data(file), f"file {file.name}")
    return UnderTest(entry.module, None, "stock" if entry.module == STOCK_MODULE else "a file on the host")


def _header(source: Path) -> str:
    # Later trees keep what architectures share in a file of its own.
    places = ("amd64/include/vmm_dev.h", "dev/vmm/vmm_dev.h")
    files = [root / place for root in (source / "sys", source) for place in places]
    return "\n".join(file.read_text(encoding="utf-8", errors="replace") for file in files if file.is_file())


def module_data(file: Path) -> bytes:
    """The bytes of a kernel module's file on the controller; raises :class:`ConfigError` for what is none."""
    try:
        data = file.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"The module '{file}' cannot be read: {error.strerror}.",
            help="Build it first; the inventory names the file with 'module_file' or 'witness_file'.",
        ) from None
    if not data.startswith(_ELF) or data[16:18] != b"\x01\x00":
        raise ConfigError(
            f"'{file}' is no kernel module: it does not begin as a relocatable 64-bit ELF file does.",
            help="Name the file that the build of the module made (vmm.ko, vmmcheck_witness.ko).",
        )
    return data


def build(builder: Builder, work: Path) -> Path:
    """Copy the sources, apply the patches, run the command; the vmm.ko it wrote.

    Everything happens in ``work`` (made anew); the sources themselves are never written. Raises
    :class:`BuildFailed` when these sources give no module, :class:`ConfigError` when it could not be tried.
    """
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    source, output = work / "source", work / "vmm.ko"
    origin = Path(builder.source).expanduser()
    if builder.ref:
        _take_ref(origin, builder.ref, source)
    elif origin.is_dir():
        shutil.copytree(origin, source, symlinks=True)
    else:
        raise ConfigError(f"The sources '{builder.source}' are no folder.", help="Name a source tree with 'source'.")
    for patch in builder.patches:
        file = Path(patch).expanduser().resolve()
        if not file.is_file():
            raise ConfigError(f"The patch '{patch}' does not exist.")
        what = f"The patch '{file.name}' does not apply"
        _run(["patch", "-p1", "-s", "-f", "-i", str(file)], source, what, 60, BuildFailed)
    words = [word.format(source=source, output=output) for word in builder.command]
    said = _run(words, work, "The build of the module failed", builder.seconds, BuildFailed)
    (work / "build.log").write_text(said, encoding="utf-8")
    if not output.is_file():
        raise BuildFailed(
            f"'{words[0]}' ended in order, but wrote no '{output.name}' where {{output}} says.",
            help="The command of 'builder' has to leave the module at {output}.",
        )
    return output


def _take_ref(repository: Path, ref: str, target: Path) -> None:
    target.mkdir()
    archive = target.with_suffix(".tar")
    what = f"'{ref}' cannot be taken out of '{repository}'"
    _run(["git", "-C", str(repository), "archive", "-o", str(archive), ref], target, what, 600)
    _run(["tar", "-xf", str(archive), "-C", str(target)], target, what, 600)
    archive.unlink()


def _run(
    words: list[str], folder: Path, what: str, seconds: float, failed: type[ConfigError] = ConfigError
) -> str:
    try:
        done = subprocess.run(
            words, cwd=folder, capture_output=True, text=True, errors="replace", check=False, timeout=seconds,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise failed(f"{what}: '{words[0]}' did not end within {seconds:g} seconds.") from None
    except OSError as error:
        raise ConfigError(f"{what}: '{words[0]}' could not be run to its end ({type(error).__name__}).") from None
    said = done.stdout + done.stderr
    if done.returncode != 0:
        end = " / ".join(said.strip().splitlines()[-4:])
        raise failed(f"{what}: status {done.returncode}: {end[:600] or 'no message'}.")
    return said
