"""Views of a finished run. None of them decides anything: every verdict comes from the run's own cells."""

from harness.report.allure import write_allure
from harness.report.ctrf import write_ctrf
from harness.report.html import write_html
from harness.report.junit import write_junit
from harness.results import Run


def write_reports(run: Run) -> None:
    """Write ``junit.xml``, ``ctrf.json``, ``allure-results/`` and ``report.html`` into the run folder."""
    write_junit(run)
    write_ctrf(run)
    write_allure(run)
    write_html(run)


__all__ = ["write_reports"]
