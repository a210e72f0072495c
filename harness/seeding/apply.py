"""Applies a defect to a copy of a user's vmm sources and says what was changed."""

from __future__ import annotations

import difflib
import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from harness.errors import ConfigError
from harness.seeding.catalogue import Change, SourceDefect

#: Where the sources are in a tree of FreeBSD's.
_VMM = Path("sys/amd64/vmm")
#: Every seeded module says by this sysctl which defect it has: it is the code that runs, not a file, that answers.
MARKER = "hw.vmm.vmmcheck_defect"
#: Where it is put: behind the declaration that every release has in the file of each vendor; what defines hw.vmm itself
#: has moved between files (amd64/vmm/vmm.c, later dev/vmm/vmm_vm.c). Both files are in every vmm.ko.
_MARKED_FILES = {"amd": "amd/svm.c", "intel": "intel/vmx.c"}
_MARKED_PLACE = re.compile(r"^SYSCTL_DECL\(_hw_vmm\);\n", re.MULTILINE)
# The name of the defect is put in with the file's own declaration in front of it.
_MARKER_TEXT = (
    '{match}SYSCTL_STRING(_hw_vmm, OID_AUTO, vmmcheck_defect, CTLFLAG_RD, "{id}", 0,\n    "seeded defect");\n'
)
_VERSION = re.compile(r"^#define\s+__FreeBSD_version\s+(\d+)", re.MULTILINE)
_HELP = (
    "The catalogue was made for 12.1 to 15 ('vmmcheck kernel fits' tells which defects fit a tree); add the layout of"
    " these sources to kernel/freebsd/defects.toml."
)


@dataclass(frozen=True, slots=True)
class Seeded:
    """What came of it: the changed copy of ``sys/amd64/vmm``, a patch for the tree, the changed files."""

    folder: Path
    patch: Path
    files: tuple[str, ...]


def find_vmm(tree: Path) -> Path:
    """``sys/amd64/vmm`` of a source tree, or the folder itself; raises :class:`ConfigError`."""
    for folder in (tree / _VMM, tree / "amd64" / "vmm", tree):
        if (folder / "amd" / "svm.c").is_file() and (folder / "vmm.c").is_file():
            return folder
    raise ConfigError(
        f"'{tree}' holds no vmm sources: neither {_VMM}/vmm.c nor vmm.c with amd/svm.c is there.",
        help="Name FreeBSD's source tree, or its folder sys/amd64/vmm, with --src.",
    )


def version_of(tree: Path) -> int | None:
    """``__FreeBSD_version`` of a whole source tree (``sys/sys/param.h``); nothing where only a part of it is there."""
    for header in (tree / "sys" / "sys" / "param.h", tree / "sys" / "param.h"):
        if header.is_file():
            match = _VERSION.search(header.read_text(encoding="utf-8", errors="replace"))
            return int(match[1]) if match else None
    return None


def apply_defect(defect: SourceDefect, tree: Path, out: Path) -> Seeded:
    """Write ``out/vmm`` (the changed copy) and ``out/ID.patch``; the tree itself is only read.

    Raises :class:`ConfigError` when a pattern is not found as often as it has to be: then nothing was written.
    """
    source = find_vmm(tree)
    texts: dict[str, str] = {}
    marker = Change(_MARKED_FILES[defect.vendor], (), _MARKED_PLACE, _MARKER_TEXT)
    for change in (*defect.changes, marker):
        text = texts.get(change.file)
        if text is None:
            text = _read(source / change.file, change.file, defect)
        texts[change.file] = _edit(text, change, defect)
    folder = out / "vmm"
    if folder.exists():
        raise ConfigError(f"'{folder}' exists already.", help="Name a new folder with --out, or remove the old one.")
    out.mkdir(parents=True, exist_ok=True)
    patch: list[str] = []
    shutil.copytree(source, folder)
    for name, text in texts.items():
        before = _read(source / name, name, defect)
        (folder / name).write_text(text, encoding="utf-8", errors="surrogateescape")
        patch += difflib.unified_diff(
            before.splitlines(keepends=True), text.splitlines(keepends=True), f"a/{_VMM}/{name}", f"b/{_VMM}/{name}"
        )
    file = out / f"{defect.id}.patch"
    file.write_text("".join(patch), encoding="utf-8", errors="surrogateescape")
    facts = {"defect": defect.id, "requirement": defect.requirement, "vendor": defect.vendor, "files": sorted(texts)}
    (out / "defect.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    return Seeded(folder, file, tuple(sorted(texts)))


def _read(path: Path, name: str, defect: SourceDefect) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        raise ConfigError(f"'{defect.id}' changes {name}, which these sources do not have.") from None


def _edit(text: str, change: Change, defect: SourceDefect) -> str:
    start, end, place = _place(text, change, defect)
    body = text[start:end]
    found = len(change.pattern.findall(body))
    if found != change.count:
        raise ConfigError(
            f"'{defect.id}' does not fit these sources: {change.file}, {place}: the pattern"
            f" '{change.pattern.pattern}' is there {found} times, {change.count} was expected.",
            help=_HELP,
        )
    if "{match}" in change.replacement:

        def put(match: re.Match[str]) -> str:
            return change.replacement.format(match=match[0], id=defect.id)

        changed = change.pattern.sub(put, body)
    else:
        changed = change.pattern.sub(change.replacement, body)
    return text[:start] + changed + text[end:]


def _place(text: str, change: Change, defect: SourceDefect) -> tuple[int, int, str]:
    """Start and end of the function, assembly routine or macro that the change speaks of."""
    if not change.within:
        return 0, len(text), "the whole file"
    for name in change.within:
        quoted = re.escape(name)
        for pattern in (
            # FreeBSD's style: the name begins a line, the body ends at a brace in the first column.
            rf"^{quoted}\([^;{{]*\n\{{\n.*?^\}}\n",
            rf"^ENTRY\({quoted}\)\n.*?^END\({quoted}\)\n",
            rf"^#define\s+{quoted}\b(?:[^\n]*\\\n)*[^\n]*\n",
        ):
            match = re.search(pattern, text, re.MULTILINE | re.DOTALL)
            if match:
                return match.start(), match.end(), name
    raise ConfigError(
        f"'{defect.id}' does not fit these sources: {change.file} has none of {', '.join(change.within)}.",
        help=_HELP,
    )
