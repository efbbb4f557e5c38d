"""A build that is killed or interrupted keeps what was finished and leaves nobody behind."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from ctfm.loading.store.building import build_store
from ctfm.loading.store.index import Store
from ctfm.loading.store.inspection import check
from store_support import files
from support import make_ct, save

SCANS = 10
SPACING = (2.0, 2.0, 2.0)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scans that take some tens of milliseconds each."""
    root = tmp_path_factory.mktemp("source")
    rows = []
    for i in range(SCANS):
        hu, label = make_ct(seed=i, side=48)
        save(hu, root / f"s{i}" / "ct.nii.gz")
        save(label, root / f"s{i}" / "labels.nii.gz")
        rows.append({"image": f"s{i}/ct.nii.gz", "label": f"s{i}/labels.nii.gz"})
    (root / "list.json").write_text(json.dumps({"training": rows}))
    return root / "list.json"


@pytest.fixture(scope="module")
def undisturbed(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("undisturbed")
    build_store(str(source), str(store), "whole_body", spacing=SPACING, workers=1)
    return store


def finished(store: Path) -> dict[str, int]:
    """Files of scans that are finished: an image is written last."""
    found = {n: t for n, t in files(store).items() if not Path(n).name.startswith(".")}
    images = {n.split(".")[0] for n in found if n.endswith(".image.b2nd")}
    return {n: t for n, t in found.items() if n.split(".")[0] in images}


def assert_same(store: Path, undisturbed: Path) -> None:
    check(store, prune=True)  # what killed builds were writing
    assert files(store).keys() == files(undisturbed).keys()
    for name in files(store):
        assert (store / name).read_bytes() == (undisturbed / name).read_bytes()
    assert (store / "store.json").read_bytes() == (undisturbed / "store.json").read_bytes()
    assert len(Store(store).entries) == SCANS


#: Imports once; then a child for each line it reads, which builds and is killed: after so many
#: seconds, counted from the first scan that it finishes, unless the line says "early".
NURSERY = """
import os, signal, sys, time
from pathlib import Path
from ctfm.loading.store.building import build_store
print("ready", flush=True)
def count():
    return sum(not p.name.startswith(".") for p in Path(sys.argv[2]).rglob("*.image.b2nd"))
def ended(child):
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT)
for line in sys.stdin:
    when, delay = line.split()
    before = count()
    child = os.fork()
    if not child:
        build_store(sys.argv[1], sys.argv[2], "whole_body", spacing=(2.0, 2.0, 2.0), workers=1)
        os._exit(0)
    while when != "early" and count() == before and not ended(child):
        time.sleep(0.001)
    time.sleep(float(delay))
    os.kill(child, signal.SIGKILL)
    print(os.WTERMSIG(os.waitpid(child, 0)[1]), flush=True)
"""


def test_killed_again_and_again(source: Path, undisturbed: Path, tmp_path: Path) -> None:
    """Early, which may be before anything is finished, and then just after something was."""
    store, rng = tmp_path / "store", random.Random(0)
    nursery = subprocess.Popen(
        [sys.executable, "-c", NURSERY, str(source), str(store)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert nursery.stdin is not None
    assert nursery.stdout is not None
    assert nursery.stdout.readline() == "ready\n"
    before: dict[str, int] = {}
    killed: list[int] = []
    while len(finished(store)) < 2 * SCANS:
        when = ("early", "late")[len(killed) % 2]
        nursery.stdin.write(f"{when} {rng.uniform(0, 0.03)}\n")
        nursery.stdin.flush()
        killed.append(int(nursery.stdout.readline()))
        now = finished(store)
        assert before.items() <= now.items()  # nothing that was finished is written again
        assert when == "early" or len(now) > len(before)
        before = now
    nursery.stdin.close()
    assert nursery.wait(timeout=60) == 0
    assert killed.count(signal.SIGKILL) >= 2
    build_store(str(source), str(store), "whole_body", spacing=SPACING, workers=1)
    assert finished(store) == before
    assert_same(store, undisturbed)


def start(source: Path, store: Path) -> subprocess.Popen[str]:
    """What a user types, with two workers, in a group of processes as a shell makes it."""
    words = ["store", "build", str(source), "--task", "whole_body", "--out", str(store)]
    return subprocess.Popen(
        [sys.executable, "-m", "ctfm", *words, "--spacing", "2,2,2", "--workers", "2"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def wait_until_working(store: Path) -> None:
    end = time.monotonic() + 120
    while len(finished(store)) < 4:
        assert time.monotonic() < end
        time.sleep(0.002)


def processes_of(session: int) -> list[int]:
    """Processes of a session that are alive, workers whose parent is gone included."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, sid = status.read_text().rpartition(")")[2].split()[:4]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(sid) == session and state != "Z":
            found.append(int(status.parent.name))
    return found


def assert_gone(session: int) -> None:
    end = time.monotonic() + 10
    while left := processes_of(session):
        assert time.monotonic() < end, f"still there: {left}"
        time.sleep(0.05)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
class TestWorkers:
    @pytest.fixture(scope="class")
    def source(self, tmp_path_factory: pytest.TempPathFactory) -> Path:
        """Scans that keep two workers busy for seconds."""
        root = tmp_path_factory.mktemp("larger")
        rng = np.random.default_rng(0)
        for i in range(40):
            hu = rng.integers(-1024, 1000, (96, 96, 96)).astype(np.int16)
            save(hu, root / f"s{i:02d}.nii", np.diag([3.0, 3.0, 3.0, 1.0]))
        rows = [{"image": f"s{i:02d}.nii"} for i in range(40)]
        (root / "list.json").write_text(json.dumps({"training": rows}))
        return root / "list.json"

    def test_kill_and_ctrl_c(self, source: Path, tmp_path: Path) -> None:
        """One after the other in one store: workers take seconds to start."""
        store = tmp_path / "store"
        process = start(source, store)
        wait_until_working(store)
        assert len(processes_of(process.pid)) >= 3
        process.kill()  # the parent alone, as the kernel does when memory runs out
        process.communicate(timeout=60)
        assert_gone(process.pid)
        before = finished(store)
        assert 4 <= len(before) < 40

        process = start(source, store)
        end = time.monotonic() + 120
        while len(finished(store)) < len(before) + 2:
            assert time.monotonic() < end
            time.sleep(0.002)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all of them
        _, stderr = process.communicate(timeout=60)
        assert process.returncode in (-signal.SIGINT, 130, 1)
        assert [line for line in stderr.splitlines() if line.startswith("error: interrupted")]
        assert "Traceback" not in stderr
        assert len(stderr.splitlines()) == 1
        assert_gone(process.pid)
        assert before.items() <= finished(store).items()
        assert len(finished(store)) < 40
        rows = {entry.key for entry in Store(store).entries}
        assert rows
        assert rows <= {Path(name).name.split(".")[0] for name in finished(store)}

        now = finished(store)
        build_store(str(source), str(store), "whole_body", spacing=SPACING, workers=1)
        assert now.items() <= finished(store).items()
        assert len(Store(store).entries) == 40
        assert check(store, prune=True).startswith(f"{store}: 40 scans sound")
