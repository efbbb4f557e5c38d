"""One line for what a user caused, a traceback for what we caused."""

from __future__ import annotations

import subprocess
import sys

import pytest

from ctfm.base.errors import UserError, one_line
from ctfm.base.optional import require

RAISE = """
from ctfm.base.errors import UserError, explain_in_one_line
explain_in_one_line()
try:
    raise {error}
except Exception as error:
    raise RuntimeError("applying a transform failed") from error
"""


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_user_error_inside_other_errors_ends_in_one_line() -> None:
    done = run(RAISE.format(error='UserError("x is\\n 3: use 4")'))
    assert done.returncode == 1
    assert done.stderr == "error: x is 3: use 4\n"


def test_defects_keep_their_traceback() -> None:
    done = run(RAISE.format(error='ValueError("bug")'))
    assert done.returncode == 1
    assert "Traceback" in done.stderr


def test_interrupt_ends_in_one_line_and_the_shell_sees_a_signal() -> None:
    code = "from ctfm.base import errors\nerrors.explain_in_one_line()\nraise KeyboardInterrupt"
    done = run(code)
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: interrupted")
    assert done.returncode in (-2, 130)


def test_other_errors_have_no_line() -> None:
    assert one_line(ValueError("x")) is None


def test_error_in_a_worker_of_the_loader_has_its_line() -> None:
    """The loader sends a traceback as text, in an error of its kind."""
    text = (
        "Caught RuntimeError in DataLoader worker process 0.\nOriginal Traceback:\n"
        "ctfm.base.errors.UserError: a.nii.gz holds 3: correct it\n\nThe above exception was …\n"
        "RuntimeError: applying transform"
    )
    for kind in (RuntimeError, UserError):
        assert one_line(kind(text)) == "a.nii.gz holds 3: correct it"
    assert one_line(RuntimeError(text.replace("ctfm.base.errors.UserError", "ValueError"))) is None


def test_missing_optional_dependency_says_the_pip_line() -> None:
    with pytest.raises(UserError, match=r'needed to fly .* pip install "ct-fm-bundles\[dali\]"'):
        require("no_such_module.at_all", purpose="fly", extra="dali")
