"""Codes are public: they stand in reports, categories and documentation."""

from __future__ import annotations

import re

from harness.errors import Culprit, ProductFailure, VmmcheckError, all_errors

PREFIX = {
    Culprit.PRODUCT: "PRODUCT-",
    Culprit.TEST: "TEST-",
    Culprit.HARNESS: "HARNESS-",
    Culprit.LAB: "INFRA-",
    Culprit.CONFIG: "CONFIG-",
}


def test_codes_are_unique_and_well_formed() -> None:
    errors = all_errors()
    codes = [error.code for error in errors]
    assert len(codes) == len(set(codes)), sorted(code for code in codes if codes.count(code) > 1)
    for error in errors:
        assert re.fullmatch(r"[A-Z]+(-[A-Z0-9]+)+", error.code), error.code
        assert error.code.startswith(PREFIX[error.culprit]), f"{error.__name__}: {error.code} / {error.culprit}"
        assert error.help.endswith((".", "?")), error.__name__
        assert error.__doc__, error.__name__


def test_only_product_failures_are_assertions() -> None:
    for error in all_errors():
        assert issubclass(error, AssertionError) == issubclass(error, ProductFailure), error.__name__


def test_an_error_reads_as_code_what_happened_and_what_to_do() -> None:
    text = str(VmmcheckError("Something broke at 'x'.", help="Do this."))
    assert text == "HARNESS-INTERNAL: Something broke at 'x'. Do this."
