"""Which vmm.ko a run is about, when the command line says so instead of the inventory."""

from __future__ import annotations

from pathlib import Path

from harness.errors import ConfigError
from harness.inventory.model import EmulatedHost, FreebsdMachine, Host

_FORMS = "stock, ko:FILE, ref:REF, patch:FILE or defect:ID"


def seeded_defect(module: str) -> str:
    """The defect that ``defect:ID`` names, or nothing."""
    return module.removeprefix("defect:") if module.startswith("defect:") else ""


def with_module(alias: str, host: Host, module: str) -> Host:
    """The entry of a host with another module under test.

    Raises :class:`ConfigError` where the host cannot run what ``module`` names.
    """
    kind, colon, what = module.partition(":")
    if (kind, colon) != ("stock", "") and (kind not in ("ko", "ref", "patch", "defect") or not what):
        raise ConfigError(f"'{module}' names no module: expected {_FORMS}.")
    if kind in ("ko", "patch") and not Path(what).is_file():
        raise ConfigError(f"The file '{what}' of module '{module}' does not exist.")
    if isinstance(host, FreebsdMachine):
        return _with_module(alias, host, kind, what)
    if isinstance(host, EmulatedHost) and kind not in ("stock", "defect"):
        raise ConfigError(
            f"'{alias}' is an emulated host and has no FreeBSD to load '{module}' into: use stock or defect:ID there."
        )
    return host


def _with_module(alias: str, host: FreebsdMachine, kind: str, what: str) -> Host:
    changes: dict[str, object] = {"module_file": "", "builder": None}
    if kind == "defect":
        raise ConfigError(
            f"'{alias}' runs FreeBSD's own vmm.ko: seed the defect with 'vmmcheck kernel defect {what}' and give the "
            "built module as ko:FILE."
        )
    if kind == "ko":
        changes["module_file"] = str(Path(what).resolve())
    elif kind in ("ref", "patch"):
        if host.builder is None:
            raise ConfigError(f"'{alias}' has no 'builder' in the inventory, which '{kind}:{what}' needs.")
        update = {"ref": what} if kind == "ref" else {"patches": (*host.builder.patches, str(Path(what).resolve()))}
        changes["builder"] = host.builder.model_copy(update=update)
    changed = host.model_copy(update=changes)
    assert isinstance(changed, FreebsdMachine)
    return changed  # type: ignore[return-value]
