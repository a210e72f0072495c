"""The lab file: everything that is wrong is said at once, in the words of the file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from harness.errors import ConfigError, InventoryInvalid, NoHosts
from harness.inventory import (
    FreebsdHost,
    Host,
    Secret,
    dump_host,
    hosts_matching,
    json_schema,
    load_inventory,
    select_hosts,
)

LABS = Path(__file__).resolve().parents[2] / "labs"
KEY = "SHA256:" + "A" * 43

HOST = f"""
[host.zen4a]
kind = "freebsd"
address = "zen4a.lab.example"
identity = {{ file = "key" }}
host_keys = ["{KEY}"]
cpu = {{ vendor = "AuthenticAMD", family = 25, model = 17, stepping = 1, class = "zen4" }}
"""


def lab(tmp_path: Path, text: str, head: str = 'schema = 1\nlab = "test"\n') -> Path:
    path = tmp_path / "lab.toml"
    path.write_text(head + text, encoding="utf-8")
    return path


def mistakes(path: Path) -> list[str]:
    with pytest.raises(InventoryInvalid) as caught:
        load_inventory(path)
    return [line.strip() for line in caught.value.message.splitlines()[1:] if line.strip()]


@pytest.mark.parametrize("path", sorted(LABS.glob("*.toml")), ids=lambda path: path.stem)
def test_labs_of_the_tree_are_valid(path: Path) -> None:
    assert load_inventory(path).host


def test_all_mistakes_are_reported_at_once_with_suggestions(tmp_path: Path) -> None:
    text = f"""
[host.Zen-4]
kind = "bare"
vendor = "amd"
[host.zen4a]
kind = "freebsd"
adress = "zen4a.lab.example"
port = "22"
identity = {{ env = "A", file = "b" }}
host_keys = ["{KEY[:-1]}"]
cpu = {{ vendor = "AMD", family = 25, model = 17, stepping = "1", class = "zen4" }}
[host.sim]
kind = "emulatd"
vendor = "amd"
[host.image]
kind = "qemu"
"""
    found = mistakes(lab(tmp_path, text))
    expected = (
        "host.Zen-4: a host's name is a lower-case letter",
        "host.zen4a.adress: unknown key; did you mean 'address'?",
        "host.zen4a.address: missing",
        "host.zen4a.port: Input should be a valid integer (found '22')",
        "host.zen4a.identity: name exactly one of 'env', 'file', 'command' and 'agent'",
        "host.zen4a.host_keys.0: String should match pattern",
        "host.zen4a.cpu.vendor: Input should be 'GenuineIntel'",
        "host.zen4a.cpu.stepping: Input should be a valid integer",
        "host.sim: unknown kind 'emulatd'; did you mean 'emulated'?",
        "host.image.identity: missing",
        "host.image.host_keys: missing",
        "host.image.image: missing",
        "host.image.vendor: missing",
    )
    for line in expected:
        assert any(one.startswith(line) for one in found), (line, found)
    assert len(found) == len(expected), found


def test_kinds_inside_of_a_host_are_not_part_of_the_path(tmp_path: Path) -> None:
    text = HOST + '[host.zen4a.power]\nkind = "command"\non = ["x"]\noff = []\nstatsu = ["x"]\n'
    assert mistakes(lab(tmp_path, text)) == [
        "host.zen4a.power.off: Tuple should have at least 1 item after validation, not 0 (found [])",
        "host.zen4a.power.status: missing",
        "host.zen4a.power.statsu: unknown key; did you mean 'status'?",
    ]


def test_a_mistake_in_the_defaults_is_told_once_and_there(tmp_path: Path) -> None:
    text = f'[defaults]\nport = 0\nuser = "root"\n{HOST}{HOST.replace("zen4a", "zen4b")}'
    assert mistakes(lab(tmp_path, text)) == ["defaults.port: Input should be greater than 0 (found 0)"]


def test_defaults_hold_where_a_host_says_nothing(tmp_path: Path) -> None:
    text = f'[defaults]\nport = 2222\nuser = "lab"\nbecome = "doas"\n{HOST}{HOST.replace("zen4a", "zen4b")}port = 22\n'
    hosts = load_inventory(lab(tmp_path, text)).host
    first, second = hosts["zen4a"], hosts["zen4b"]
    assert isinstance(first, FreebsdHost)
    assert isinstance(second, FreebsdHost)
    assert (first.port, first.user, first.become, second.port) == (2222, "lab", "doas", 22)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('user = "lab"', "user 'lab' is not root: say how it becomes root"),
        ('module = "/root/other.ko"', "'module' must end in '/vmm.ko'"),
        ("timeouts = { connect = 30, comeback = 10 }", "limits nest"),
        ('identity = { agent = false }', "'agent' is 'true' or left out"),
    ],
)
def test_rules_between_keys(tmp_path: Path, line: str, said: str) -> None:
    key = line.split(" ")[0]
    entry = "\n".join(one for one in HOST.splitlines() if not one.startswith(key)) + f"\n{line}\n"
    found = mistakes(lab(tmp_path, entry))
    assert any(said in one for one in found), found


def test_schema_numbers(tmp_path: Path) -> None:
    newer = lab(tmp_path, HOST, 'schema = 2\nlab = "test"\n')
    with pytest.raises(InventoryInvalid, match="has schema 2; this vmmcheck reads schema 1"):
        load_inventory(newer)
    older = lab(tmp_path, HOST, 'schema = 0\nlab = "test"\n')
    with pytest.warns(UserWarning, match="old schema 0"):
        assert load_inventory(older).host


def test_what_is_no_lab_file(tmp_path: Path) -> None:
    with pytest.raises(InventoryInvalid, match="cannot be read"):
        load_inventory(tmp_path / "missing.toml")
    with pytest.raises(InventoryInvalid, match="is not TOML"):
        load_inventory(lab(tmp_path, "[["))


def test_an_entry_survives_the_way_to_a_worker() -> None:
    for alias, host in load_inventory(LABS / "example.toml").host.items():
        again: Host = TypeAdapter(Host).validate_json(json.dumps(dump_host(host)))
        assert again == host, alias


def test_secrets_are_resolved_late_and_never_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    canary = "canary-5d1f"
    monkeypatch.setenv("LAB_SECRET", canary)
    secret = Secret(env="LAB_SECRET").resolve()
    assert secret.get_secret_value() == canary
    assert canary not in repr(secret)
    path = tmp_path / "secret"
    path.write_text(canary, encoding="utf-8")
    path.chmod(0o640)
    with pytest.raises(ConfigError, match="open to others") as caught:
        Secret(file=str(path)).resolve()
    assert canary not in str(caught.value)
    path.chmod(0o600)
    assert Secret(file=str(path)).resolve().get_secret_value() == canary
    assert Secret(command=["printf", canary]).resolve().get_secret_value() == canary
    with pytest.raises(ConfigError, match="'false' failed with status 1"):
        Secret(command=["false"]).resolve()
    with pytest.raises(ConfigError, match=r"'NOT_SET' .* is not set"):
        Secret(env="NOT_SET").resolve()


def test_selection_by_name_and_by_facts() -> None:
    inventory = load_inventory(LABS / "example.toml")
    assert list(select_hosts(inventory, ["zen4a"])) == ["zen4a"]
    with pytest.raises(NoHosts, match="has no host 'zen5'; it has zen4a, skylake"):
        select_hosts(inventory, ["zen5"])
    assert list(hosts_matching(inventory, "vendor == amd and family >= 25")) == ["zen4a"]
    assert list(hosts_matching(inventory, "class == 'skylake-x'")) == ["skylake"]
    assert list(hosts_matching(inventory, "nightly in purpose or not vendor == amd")) == ["zen4a", "skylake"]
    with pytest.raises(NoHosts, match="zen4a: alias=zen4a kind=freebsd"):
        hosts_matching(inventory, "family == 23")
    for wrong in ("vendor ==", "__import__('os')", "vendor == amd; 1", "1 + 1"):
        with pytest.raises(ConfigError):
            hosts_matching(inventory, wrong)


def test_the_schema_speaks_the_words_of_the_file() -> None:
    schema = json.loads(json_schema())
    assert {"schema", "lab", "host", "defaults"} <= schema["properties"].keys()
