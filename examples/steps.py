"""Steps of a demo: commands that are printed as they can be typed, and then run."""

from __future__ import annotations

import io
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ctfm.base import UserError

__all__ = ["CTFM", "RUN", "configs", "heading", "start_afresh", "step", "typed"]

ROOT = Path(__file__).resolve().parents[1]
CTFM = (sys.executable, "-m", "ctfm")
RUN = (sys.executable, "-m", "monai.bundle", "run")
#: In the folder that a demo fills.
MARK = ".made_by_demo"
#: Lines in which MONAI repeats the command line, and the hub counts its attempts.
NOISE = re.compile(
    r"parsing config_file|\d{4}-\S+ \S+ - INFO - |.* - Not all config files"
    r"|Retrying in|.* thrown while requesting|\s*$"
)


def heading(text: str) -> None:
    """Print a heading, bold on a terminal."""
    bold = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    print(f"\n\033[1m{text}\033[0m" if bold else f"\n{text}")
    print("-" * len(text))


def step(name: str, command: Sequence[str], /, **options: Any) -> None:
    """Print a command, run it, and pass its output on without the lines that say nothing.

    Raises:
        UserError: it ended with an exit code other than 0.
    """
    print(typed(command, **options), end="\n\n", flush=True)
    started = time.monotonic()
    pairs = [word for key, value in options.items() for word in (f"--{key}", str(value))]
    process = subprocess.Popen(
        [*command, *pairs],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    try:
        assert process.stdout is not None
        # newline="" hands over the carriage returns of progress bars as they come
        for line in io.TextIOWrapper(process.stdout, newline="", errors="replace"):
            if not NOISE.match(line):
                print(line, end="", flush=True)
    except KeyboardInterrupt:
        process.send_signal(signal.SIGINT)
        raise
    finally:
        process.wait()
    if process.returncode:
        text = " ".join(typed(command, **options).replace("\\\n", " ").split())
        raise UserError(f"step {name!r} ended with exit code {process.returncode}: {text}")
    print(f"({time.monotonic() - started:.0f} s)")


def start_afresh(out: Path, made: Sequence[Path]) -> None:
    """Remove what an earlier run of a demo made, and nothing else.

    Args:
        out: the demo's folder.
        made: what a run makes in it.

    Raises:
        UserError: such files are there, and no earlier run left its mark.
    """
    there = [path for path in made if path.exists()]
    if there and not (out / MARK).exists():
        raise UserError(f"{there[0].resolve()} was not made by this demo: move it away")
    for path in there:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    out.mkdir(exist_ok=True)
    (out / MARK).touch()


def configs(bundle: Path, entry: str, *overlays: str) -> dict[str, Any]:
    """Options that run an entry point of a bundle with overlays, the bundle's or the examples'."""
    names = [f"{entry}.json", *(f"{overlay}.yaml" for overlay in overlays)]
    examples = Path("examples")
    folders = [examples if (ROOT / examples / n).exists() else bundle / "configs" for n in names]
    paths = [folder / name for folder, name in zip(folders, names, strict=True)]
    listed = "[" + ",".join(f"'{path.as_posix()}'" for path in paths) + "]"
    return {"config_file": listed if overlays else paths[0], "bundle_root": bundle}


def typed(command: Sequence[str], /, **options: Any) -> str:
    """A command as it is typed in ROOT, indented; one that is long has a line for each option."""
    inside = Path(sys.executable).is_relative_to(ROOT)
    python = os.path.relpath(sys.executable, ROOT) if inside else sys.executable
    lines = [" ".join(quoted(python if w == sys.executable else w) for w in command)]
    lines += [f"--{name} {quoted(str(value))}" for name, value in options.items()]
    short = len(" ".join(lines)) < 100
    return "    " + (" " if short else " \\\n        ").join(lines)


def quoted(word: str) -> str:
    """Quoted for a shell, in double quotes where they are easier to read."""
    plain = shlex.quote(word)
    return f'"{word}"' if "'" in word and not re.search(r'["$`\\!]', word) else plain
