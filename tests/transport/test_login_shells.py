"""One quoting for csh and sh: root's login shell differs between releases of FreeBSD."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from harness.errors import UnexpectedAnswer
from harness.transport import Framed, through_sh

TEXTS = ["plain", "a'b", 'say "x"', "!!", "a!b 'c!d' !", "$HOME `id` $(id)", "back\\slash \\! \\'", "~ * ? [a-z] {x,y}",
         "semi; colon & | > <", "# no comment", "ümläut"]  # fmt: skip


@pytest.mark.parametrize("shell", ["sh", "bash", "tcsh"])
@pytest.mark.parametrize("text", TEXTS)
def test_every_login_shell_hands_over_the_same_text(shell: str, text: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell} on this machine")
    quoted = text.replace("'", "'\\''")
    command = through_sh(f"printf %s '{quoted}'")
    done = subprocess.run([shell, "-c", command], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == (text, "")


def test_a_command_is_one_line() -> None:
    with pytest.raises(ValueError, match="one line"):
        through_sh("a\nb")


def test_an_answer_that_is_missing_is_told() -> None:
    framed = Framed({"one": "true", "two": "true"}, token="t")
    answers = framed.parse(b"x\n@@t one 0\nhalf", 0, 0)
    assert list(answers) == ["one"]
    with pytest.raises(UnexpectedAnswer, match="No answer came for two"):
        framed.require(answers, "script")
