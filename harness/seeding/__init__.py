"""Seeded defects for FreeBSD's own vmm sources: edits that are applied to somebody's tree; no source is kept here."""

from harness.seeding.apply import Seeded, apply_defect, find_vmm, version_of
from harness.seeding.catalogue import Change, SourceDefect, load_defects

__all__ = ["Change", "Seeded", "SourceDefect", "apply_defect", "find_vmm", "load_defects", "version_of"]
