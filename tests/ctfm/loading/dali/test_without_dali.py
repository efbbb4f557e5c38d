"""Where DALI is not installed, what needs it says so, and nothing else needs it."""

from __future__ import annotations

import sys

import pytest

from ctfm.base.errors import UserError
from ctfm.loading.dali.loader import DaliLoader
from ctfm.loading.store.sampling import Volumes


def test_the_error_says_how_to_install_it(stored: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nvidia.dali", None)  # what Python takes for "is missing"
    message = r'nvidia\.dali is needed to load by DALI .*: pip install "ct-fm-bundles\[dali\]"$'
    with pytest.raises(UserError, match=message):
        DaliLoader(Volumes(stored, None))
