"""A Python in which `ctfm` is not installed, for tests of what a zip carries."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

import ctfm


class Bare:
    """A Python with this environment's packages, but without `ctfm`, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        venv.create(folder / "venv", with_pip=False, symlinks=os.name != "nt")
        self.python = folder / "venv" / ("Scripts" if os.name == "nt" else "bin") / "python"
        installed = [p for p in sys.path if Path(p).name in ("site-packages", "dist-packages")]
        # .pth files in a folder that is named by a .pth are not read: the editable install is one
        where = subprocess.check_output(
            [self.python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], text=True
        )
        Path(where.strip(), "packages.pth").write_text("\n".join(installed))
        (folder / "elsewhere").mkdir()

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "COV"))}
        local = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "no_proxy": "127.0.0.1"}
        return subprocess.run(
            [self.python, *arguments],
            cwd=self.folder / "elsewhere",
            env={**kept, **local},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )


def bare_python(folder: Path) -> Bare:
    """Make one in a folder, once it is certain that it lacks the package."""
    if any(part.endswith("-packages") for part in Path(ctfm.__file__).parts):
        pytest.skip("ctfm is copied into site-packages: install it with pip install --editable .")
    bare = Bare(folder)
    absent = bare.run("-c", "import numpy, ctfm")
    assert absent.stderr.strip().endswith("No module named 'ctfm'"), absent.stderr
    return bare
