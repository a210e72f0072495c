"""What a history says: news, first bad run, changes with the same code, trends that are never mixed."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from harness.cli import cli
from harness.nightly import History, LabReport, Loaded, News, Night, night_of_run, reports, terminal, write_history
from harness.nightly.render import bundles, groups, markdown
from harness.results.revision import revision

MakeRun = Callable[..., Path]
MakeNight = Callable[..., Night]
Verdicts = tuple[str, ...]


@pytest.fixture
def told(make_night: MakeNight) -> Callable[..., LabReport]:
    """The report of one cell that had these verdicts, night by night; ``-`` where it was not planned."""

    def tell(*verdicts: str, modules: str = "") -> LabReport:
        nights = [
            make_night(
                {"one/rest": "PASS", **({"one/a": verdict} if verdict != "-" else {})},
                day=day,
                module=(modules or "a" * len(verdicts))[day] * 2,
            )
            for day, verdict in enumerate(verdicts)
        ]
        (report,) = reports(nights)
        return report

    return tell


NEWS: list[tuple[Verdicts, News | None]] = [
    (("PASS", "FAIL"), News.RED),
    (("PASS", "PANIC"), News.RED),
    (("XFAIL", "XPASS"), News.RED),
    (("SKIP", "FAIL"), News.RED),
    (("-", "FAIL"), News.RED),
    (("FAIL", "FAIL"), None),
    (("FAIL", "FAIL PRODUCT-HIT-MISMATCH"), News.RED),
    (("FAIL", "PASS"), News.FIXED),
    (("PANIC", "PASS"), News.FIXED),
    (("PASS", "PASS"), None),
    (("-", "PASS"), None),
    # A failure that is predicted from now on is still there.
    (("FAIL", "XFAIL"), News.PREDICTED),
    (("PASS", "XFAIL"), News.PREDICTED),
    (("XFAIL", "XFAIL"), None),
    # What has no answer is neither good nor bad.
    (("PASS", "INFRA"), News.UNANSWERED),
    (("FAIL", "NOT_RUN"), News.UNANSWERED),
    (("SKIP", "ERROR"), News.UNANSWERED),
    (("PASS", "INFRA", "NOT_RUN"), None),
    (("-", "INFRA"), News.UNANSWERED),
    (("FAIL", "INFRA", "FAIL"), None),
    (("PASS", "INFRA", "FAIL"), News.RED),
    (("PASS", "INFRA", "PASS"), None),
    (("FAIL", "INFRA", "PASS"), News.FIXED),
    (("FAIL", "-", "PASS"), News.FIXED),
    (("PASS", "SKIP"), News.SKIPPED),
    (("FAIL", "SKIP"), News.SKIPPED),
    (("SKIP", "SKIP"), None),
    (("PASS", "FLAKY"), News.FLAKY),
    (("PASS", "-"), News.GONE),
    (("PASS", "-", "-"), None),
]


@pytest.mark.parametrize(("verdicts", "news"), NEWS, ids=lambda value: str(value))
def test_what_is_new(told: Callable[..., LabReport], verdicts: Verdicts, news: News | None) -> None:
    assert [item.news for item in told(*verdicts).items] == ([news] if news else [])


def test_the_first_night_has_no_news(told: Callable[..., LabReport]) -> None:
    report = told("FAIL")
    assert report.items == ()
    assert "first night" in terminal([report], Loaded(report.nights, ()))
    assert len(report.red) == 1


def test_the_first_bad_run_and_what_changed_there(told: Callable[..., LabReport]) -> None:
    report = told("PASS", "PASS", "INFRA", "FAIL", "NOT_RUN", "FAIL", modules="aabbbc")
    (red,) = report.red
    nights = report.nights
    assert red.first_bad.night is nights[3]
    assert red.last_good is not None
    assert red.last_good.night is nights[1]
    assert (red.between, red.nights, red.tonight) == (1, 2, True)
    assert red.changed == (("vmm.ko", "aa" * 6, "bb" * 6),)
    (group,) = groups(report)
    assert f"last good run {nights[1].run}; 1 night without an answer in between" in group.since
    assert "Changed: vmm.ko aaaaaaaaaaaa -> bbbbbbbbbbbb." in group.since


def test_a_skip_between_does_not_end_a_row_of_failures(told: Callable[..., LabReport]) -> None:
    (red,) = told("PASS", "FAIL", "SKIP", "FAIL").red
    assert (red.first_bad.night.when[:10], red.nights) == ("2023-11-15", 2)


def test_a_red_cell_that_has_no_answer_tonight_stays_listed(told: Callable[..., LabReport]) -> None:
    (red,) = told("PASS", "FAIL", "INFRA").red
    assert not red.tonight
    assert told("FAIL", "-").red == ()
    assert told("FAIL", "PASS").red == ()


def test_red_as_far_back_as_the_history_goes(told: Callable[..., LabReport]) -> None:
    report = told("FAIL", "FAIL")
    (red,) = report.red
    assert red.last_good is None
    assert "the first answer in this history" in groups(report)[0].since


def test_everything_that_changed_is_named(make_night: MakeNight) -> None:
    before = make_night({"one/a": "PASS"}, day=1)
    after = make_night(
        {"one/a": "FAIL"}, day=2, module="bb", revision="rev2", release="15.1-RELEASE", microcode="0x12",
        module_origin="built from src", defects=["x"],
    )  # fmt: skip
    (red,) = reports([before, after])[0].red
    assert dict((name, (old, new)) for name, old, new in red.changed) == {
        "vmm.ko": ("aa" * 6, "bb" * 6),
        "origin of vmm.ko": ("not recorded", "built from src"),
        "seeded defects": ("none", "x"),
        "FreeBSD": ("15.0-RELEASE", "15.1-RELEASE"),
        "microcode": ("not recorded", "0x12"),
        "vmmcheck": ("rev1", "rev2"),
    }


FLAKES: list[tuple[Verdicts, str, tuple[int, int, int] | None]] = [
    (("PASS", "FAIL", "PASS", "PASS"), "aaaa", (2, 3, 0)),
    (("PASS", "PASS", "PASS", "PASS"), "aaaa", None),
    # Another module explains it.
    (("PASS", "FAIL", "FAIL"), "abb", None),
    (("PASS", "FAIL", "PASS"), "aba", None),
    # What has no answer changes nothing, and is no answer to compare with.
    (("PASS", "INFRA", "PASS"), "aaa", None),
    (("PASS", "INFRA", "FAIL"), "aaa", (1, 1, 0)),
    (("PASS", "FLAKY", "PASS"), "aaa", (2, 2, 1)),
]


@pytest.mark.parametrize(("verdicts", "modules", "expected"), FLAKES)
def test_changes_with_the_same_code_under_test(
    told: Callable[..., LabReport], verdicts: Verdicts, modules: str, expected: tuple[int, int, int] | None
) -> None:
    found = [(flake.changes, flake.pairs, flake.disagreed) for flake in told(*verdicts, modules=modules).flakes]
    assert found == ([expected] if expected else [])


def test_an_unknown_module_is_never_the_same_code(make_night: MakeNight) -> None:
    nights = [
        make_night({"one/a": verdict}, day=day, vmm_sha256="") for day, verdict in enumerate(("PASS", "FAIL", "PASS"))
    ]
    assert reports(nights)[0].flakes == ()


def test_trends_are_never_mixed(make_night: MakeNight) -> None:
    title = "zen4"
    nights = [
        make_night({"real/a": "PASS"}, day=1, title=title),
        make_night({"virt/a": "FAIL"}, day=2, title=title, kind="bochs"),
        make_night({"emu/a": "FAIL"}, day=3, title=title, kind="emulated"),
        make_night({"nested/a": "FAIL"}, day=4, title=title, kind="qemu"),
        make_night({"bare/a": "FAIL"}, day=5, title=title, kind="bare"),
    ]
    (report,) = reports(nights)
    assert len(report.trends) == 5
    for _, tallies in report.trends:
        assert sum(bool(tally.counts) for tally in tallies) == 1


def test_a_host_that_became_another_machine_begins_anew(make_night: MakeNight) -> None:
    nights = [
        make_night({"one/a": "FAIL"}, day=1, title="zen3"),
        make_night({"one/a": "FAIL"}, day=2, title="zen4"),
    ]
    (report,) = reports(nights)
    (red,) = report.red
    assert red.last_good is None
    assert red.first_bad.night is nights[1]
    assert {item.news for item in report.items} == {News.RED, News.GONE}


def test_labs_are_not_held_against_each_other(make_night: MakeNight) -> None:
    nights = [make_night({"one/a": "PASS"}, day=1, lab="north"), make_night({"one/a": "FAIL"}, day=2, lab="south")]
    assert [(report.lab, report.items) for report in reports(nights)] == [("north", ()), ("south", ())]


def test_a_lost_host_is_one_piece_of_news(make_night: MakeNight) -> None:
    names = [f"one/{number}" for number in range(50)]
    nights = [make_night(dict.fromkeys(names, "PASS"), day=1), make_night(dict.fromkeys(names, "NOT_RUN"), day=2)]
    (report,) = reports(nights)
    assert len(report.of(News.UNANSWERED)) == 50
    # The message of each cell in this run tells its name; one text for all of them is the rule in a real one.
    same = [item for item in report.items]
    assert sum(len(bundle.items) for bundle in bundles(same)) == 50


def test_the_same_history_gives_the_same_bytes_on_every_page(make_run: MakeRun, tmp_path: Path) -> None:
    history = History(tmp_path / "history")
    for day, verdict in enumerate(("PASS", "FAIL", "INFRA", "FAIL")):
        run = make_run({"one/<a|b>": verdict, "two/c": "PASS"}, day=day)
        history.append(night_of_run(run, history.folder))
    loaded = history.load()
    first = [path.read_bytes() for path in write_history(loaded, history.folder, tmp_path / "first")]
    second = [path.read_bytes() for path in write_history(history.load(), history.folder, tmp_path / "second")]
    assert first == second
    page, text = first[0].decode(), first[1].decode()
    assert "<a|b>" not in page
    assert "&lt;a|b&gt;" in page
    assert text == markdown(reports(loaded.nights), loaded)
    assert "<a\\|b>" in text or "<a|b>" in text
    # Links lead to the evidence from where the page stands.
    assert f'href="../runs/{loaded.nights[-1].run}/cells/&lt;a|b&gt;/one/"' in page
    assert "http" not in page.replace("http-equiv", "")


def test_only_the_last_nights_of_each_lab(make_run: MakeRun, tmp_path: Path) -> None:
    history = History(tmp_path / "history")
    for day in range(4):
        for lab in ("north", "south"):
            history.append(night_of_run(make_run({"one/a": "PASS"}, day=day, lab=lab), history.folder))
    loaded = history.load().last(2)
    # The two of one day have no order among themselves.
    assert sorted(night.lab for night in loaded.nights) == ["north", "north", "south", "south"]
    assert {night.run for night in loaded.nights} == {night.run for night in history.load().nights[-4:]}
    assert loaded.nights[-1] == history.load().nights[-1]


def test_add_and_show_by_command(make_run: MakeRun, tmp_path: Path) -> None:
    words = ["nightly", "--history", str(tmp_path / "h")]
    first, second = make_run({"one/a": "PASS"}, day=1), make_run({"one/a": "FAIL"}, day=2)
    done = CliRunner().invoke(cli, [*words, "--add", str(second), "--add", str(first)])
    assert done.exit_code == 0, done.output
    assert "1 newly red" in done.output
    again = CliRunner().invoke(cli, [*words, "--add", str(first)])
    assert again.exit_code == 0
    assert "already in" in again.output
    shown = CliRunner().invoke(cli, ["history", "--history", str(tmp_path / "h"), "--out", str(tmp_path / "o")])
    assert shown.exit_code == 0
    assert (tmp_path / "o" / "nightly.md").read_text().startswith("# vmmcheck: nightly history")
    wrong = CliRunner().invoke(cli, [*words, "--add", str(first), "--host", "one"])
    assert wrong.exit_code == 2
    assert "no meaning" in wrong.output


def test_the_revision_tells_trees_apart(tmp_path: Path) -> None:
    (tmp_path / "suites").mkdir()
    (tmp_path / "suites" / "test_x.py").write_text("one")
    git = ["git", "-C", str(tmp_path), "-c", "user.name=x", "-c", "user.email=x@example.org"]
    plain = revision(tmp_path)
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "one"]):
        subprocess.run([*git, *words], check=True)
    revision.cache_clear()
    committed = revision(tmp_path)
    (tmp_path / "suites" / "test_x.py").write_text("two")
    revision.cache_clear()
    changed = revision(tmp_path)
    (tmp_path / "suites" / "test_x.py").write_text("three")
    revision.cache_clear()
    assert plain.startswith("sources-")
    assert len(committed) == 12
    assert changed.startswith(f"{committed}+")
    assert len({plain, committed, changed, revision(tmp_path)}) == 4


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium (apt-get install chromium)")
def test_the_page_in_a_real_browser(make_run: MakeRun, tmp_path: Path) -> None:
    history = History(tmp_path / "history")
    for day, verdict in enumerate(("PASS", "FAIL")):
        history.append(night_of_run(make_run({"one/a": verdict}, day=day), history.folder))
    page = write_history(history.load(), history.folder, tmp_path / "out")[0]
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    done = subprocess.run(
        [*command, "--enable-logging=stderr", "--dump-dom", page.as_uri()],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert "1 newly red" in done.stdout
    assert "CONSOLE" not in done.stderr
