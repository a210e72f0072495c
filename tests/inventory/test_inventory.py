"""Everything that is wrong with an inventory is said at once, with the way out."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.errors import ConfigError, InventoryInvalid, NoHosts
from harness.inventory import load_inventory, select_hosts
from harness.inventory.model import Secret

ROOT = Path(__file__).resolve().parents[2]


def test_the_emulated_lab_is_valid() -> None:
    inventory = load_inventory(ROOT / "labs" / "emulated.toml")
    assert {host.kind for host in inventory.host.values()} == {"bare", "emulated"}


def test_the_commented_example_is_valid() -> None:
    inventory = load_inventory(ROOT / "labs" / "example.toml")
    assert {host.kind for host in inventory.host.values()} == {"freebsd"}


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    path = tmp_path / "lab.toml"
    path.write_text(
        'schema = 1\nlab = "x"\n[host.Bad-Name]\nkind = "bare"\nvendor = "intel"\n'
        '[host.a]\nkind = "freebsd"\nadress = "x"\nidentity = { env = "K" }\nhost_keys = ["abc"]\n'
        '[host.b]\nkind = "bare"\nvendor = "via"\n',
        encoding="utf-8",
    )
    with pytest.raises(InventoryInvalid) as caught:
        load_inventory(path)
    text = str(caught.value)
    for expected in ("Bad-Name", "host.a.adress: unknown key; did you mean 'address'?", "host.a.cpu: missing",
                     "host.a.host_keys.0", "host.b.vendor", str(path)):  # fmt: skip
        assert expected in text


@pytest.mark.parametrize(
    ("text", "expected"),
    [("schema = 2\n", "reads schema 1"), ("schema = ", "is not TOML"), ("schema = 1\nlab = 'x'\n", "host: missing")],
)
def test_unusable_files_are_refused_in_a_sentence(tmp_path: Path, text: str, expected: str) -> None:
    path = tmp_path / "lab.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InventoryInvalid, match=expected):
        load_inventory(path)


def test_a_missing_file_names_itself(tmp_path: Path) -> None:
    with pytest.raises(InventoryInvalid, match=r"nowhere\.toml"):
        load_inventory(tmp_path / "nowhere.toml")


def test_an_unknown_host_is_an_error_and_never_an_empty_run() -> None:
    inventory = load_inventory(ROOT / "labs" / "emulated.toml")
    with pytest.raises(NoHosts, match="emuintel"):
        select_hosts(inventory, ["nosuch"])


def test_a_secret_is_a_reference_and_stays_unseen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VMMCHECK_TEST_SECRET", "canary")
    assert "canary" not in repr(Secret(env="VMMCHECK_TEST_SECRET").resolve())
    path = tmp_path / "secret"
    path.write_text("canary", encoding="utf-8")
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="open to others"):
        Secret(file=str(path)).resolve()
    path.chmod(0o600)
    assert Secret(file=str(path)).resolve().get_secret_value() == "canary"
