"""When the commands of one script ran, told from when their marks arrived."""

from __future__ import annotations

from harness.transport import Framed, shown


def test_each_command_has_the_time_until_its_mark_arrived() -> None:
    framed = Framed({"a": "one", "b": "two", "c": "three"}, token="t")
    first, second, third = b"@@t a 0\n", b"out\n@@t b 1\n", b"@@t c 0\n"
    data = first + second + third
    # The mark of b came in two pieces, and c together with its second one.
    arrived = [(len(first), 0.5), (len(first) + 6, 0.7), (len(data), 2.0)]
    assert framed.times(data, arrived) == {"a": (0.0, 0.5), "b": (0.5, 1.5), "c": (2.0, 0.0)}
    answers = framed.parse(data, 100.0, 9.0, arrived)
    assert [(answers[name].started, answers[name].seconds) for name in "abc"] == [(100.0, 0.5), (100.5, 1.5), (102, 0)]


def test_without_arrival_times_the_whole_script_is_what_is_known() -> None:
    framed = Framed({"a": "one", "b": "two"}, token="t")
    answers = framed.parse(b"@@t a 0\n@@t b 1\n", 100.0, 9.0, [(8, 1.0)])
    assert (answers["a"].started, answers["a"].seconds) == (100.0, 1.0)
    assert (answers["b"].started, answers["b"].seconds) == (100.0, 9.0)


def test_a_sentence_names_a_command_without_the_condition_that_stands_before_it() -> None:
    guard = 'test "$(cat /root/.vmmcheck.lease/run 2>/dev/null)" = 20260101-010203-ab12 || exit 98; '
    assert shown(f"{guard}kldload /boot/kernel/vmm.ko") == "kldload /boot/kernel/vmm.ko"
    assert shown("test -e /dev/vmm || echo none") == "test -e /dev/vmm || echo none"
    assert len(shown("x" * 500)) == 120
