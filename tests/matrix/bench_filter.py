"""How long the compatibility page of 150 cases x 24 hosts takes to open, filter and fold in Chromium.

Run it by hand: ``.venv/bin/python tests/matrix/bench_filter.py`` (needs chromium). Every time is in milliseconds, with
style and layout done; it is printed beside the time of a page of one tenth of the hosts, as a ratio.
"""

from __future__ import annotations

import json
import re
import runpy
import subprocess
import tempfile
from pathlib import Path

from harness.catalogue import load_catalogue
from harness.matrix import matrix_of_runs, write_matrix
from harness.matrix.model import Row

large_run = runpy.run_path(str(Path(__file__).with_name("test_compatibility.py")))["large_run"]

#: Queries as somebody types them; the last one shows everything again.
QUERIES = ("s", "ss", "ssb", "ssb-0", "dr6", "nothing like this", "")

SCRIPT = """<script>
addEventListener("load", () => {
  const took = {open: performance.now()};
  const find = document.querySelector("input[type=search]");
  for (const query of %s) {
    const from = performance.now();
    find.value = query; find.dispatchEvent(new Event("input", {bubbles: true}));
    document.body.getBoundingClientRect();
    took[query || "(all again)"] = performance.now() - from;
  }
  document.title = JSON.stringify(took);
});
</script></body>"""


def measured(folder: Path, hosts: int) -> dict[str, float]:
    """Milliseconds by query for a page with so many hosts."""
    listed = load_catalogue()
    rows = {id: Row(case=id, rule=e.rule, requirements=tuple(e.requirements), priority=1) for id, e in listed.items()}
    page = write_matrix(matrix_of_runs([large_run(folder, hosts)], folder / "out", rows), folder / "out")[1]
    text = page.read_text(encoding="utf-8")
    page.write_text(text.replace("</body>", SCRIPT % json.dumps(QUERIES)), encoding="utf-8")
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}"]
    done = subprocess.run([*command, "--dump-dom", page.as_uri()], capture_output=True, text=True, check=True)
    found = re.search(r"<title>(\{.*?\})</title>", done.stdout)
    if found is None:
        raise SystemExit("The page did not tell how long it took: its script did not run.")
    took: dict[str, float] = json.loads(found[1].replace("&quot;", '"'))
    return took


def main() -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as small, tempfile.TemporaryDirectory() as large:
        one, other = measured(Path(small), 3), measured(Path(large), 24)
    print(f"{'':20}{'3 hosts':>10}{'24 hosts':>10}{'ratio':>8}")
    for what, took in other.items():
        print(f"{what:20}{one[what]:>8.1f}ms{took:>8.1f}ms{took / max(one[what], 0.1):>8.1f}")


if __name__ == "__main__":
    main()
