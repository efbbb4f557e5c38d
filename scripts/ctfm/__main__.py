"""The command line: `ctfm …` and `python -m ctfm …`."""

from __future__ import annotations

import logging
import os
import sys

from ctfm.base.errors import explain_in_one_line
from ctfm.commands import run


def main() -> None:
    """Entry point of `ctfm` and `python -m ctfm`."""
    # Idle threads of OpenMP give their core back: on a busy machine they would take it from the
    # others. Read when torch is imported, so before any command runs.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("numexpr").setLevel(logging.WARNING)  # pandas imports it; it greets
    explain_in_one_line()
    run(sys.argv[1:])


if __name__ == "__main__":
    main()
