"""Memory: what is there, what will be needed, and what is said where it is not enough."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from ctfm.base.errors import UserError
from ctfm.inference.inferers import planner as planning
from ctfm.inference.inferers.label_map import LabelMapInferer
from ctfm.inference.inferers.memory import available_bytes
from ctfm.inference.inferers.network_probe import LiveBytes, Probe
from ctfm.inference.inferers.planner import MemoryPlan, affordable, plan_memory
from ctfm.inference.inferers.slabs import SlabSettings
from ctfm.inference.inferers.windows import WindowLayout

CPU = torch.device("cpu")


def write(root: Path, **files: str) -> Path:
    for name, text in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def system(root: Path) -> Path:
    return write(root, proc__meminfo="MemTotal: 90 kB\nMemAvailable:   64 kB\n")


def test_what_the_system_has(tmp_path: Path) -> None:
    assert available_bytes(CPU, system(tmp_path)) == 64 * 1024


def test_a_container_has_less(tmp_path: Path) -> None:
    """Control groups, version 2: the limits of all groups above hold as well."""
    root = system(tmp_path)
    (root / "proc/self").mkdir()
    (root / "proc/self/cgroup").write_text("0::/user/job\n")
    group = root / "sys/fs/cgroup/user"
    group.mkdir(parents=True)
    (group / "memory.max").write_text("5000")
    (group / "memory.current").write_text("3000")
    (group / "memory.stat").write_text("anon 1\ninactive_file 500\n")
    (group / "job").mkdir()
    (group / "job" / "memory.max").write_text("max")
    (group / "job" / "memory.current").write_text("7")
    assert available_bytes(CPU, root) == 5000 - 3000 + 500


def test_a_container_of_the_old_kind(tmp_path: Path) -> None:
    root = system(tmp_path)
    (root / "proc/self").mkdir()
    (root / "proc/self/cgroup").write_text("3:cpu:/job\n7:memory:/job\n")
    group = root / "sys/fs/cgroup/memory/job"
    group.mkdir(parents=True)
    (group / "memory.limit_in_bytes").write_text("9000")
    (group / "memory.usage_in_bytes").write_text("9500")
    assert available_bytes(CPU, root) == 0


def test_systems_that_do_not_tell(tmp_path: Path) -> None:
    assert (available_bytes(CPU, tmp_path) or 0) > 0, "the physical memory"
    assert available_bytes(torch.device("meta"), tmp_path) is None


def plan(number: int, network: int = 10, rest: int = 5, device: torch.device = CPU) -> MemoryPlan:
    return MemoryPlan(number, number * network, rest, rest, 0, rest, CPU, device)


def test_as_many_windows_as_fit() -> None:
    assert affordable(plan, 8, lambda _: 60).sw_batch_size == 4
    assert affordable(plan, 2, lambda _: 60).sw_batch_size == 2
    assert affordable(plan, 8, lambda _: None).sw_batch_size == 8


def test_on_a_cpu_one_window_at_a_time_is_as_fast() -> None:
    assert affordable(plan, None, lambda _: 10**9).sw_batch_size == 1


def test_too_little_memory_is_refused_with_number_and_knob() -> None:
    with pytest.raises(UserError) as caught:
        affordable(lambda n: plan(n, 10**10, 10**9), 1, lambda _: 2 * 10**9)
    told = str(caught.value)
    assert told.startswith("segmenting needs 13.00 GB of memory on cpu (network 10.00, accumulator")
    assert "2.00 GB are there: try low_res.yaml" in told


def test_each_device_is_looked_at() -> None:
    meta = torch.device("meta")
    with pytest.raises(UserError, match=r"needs 3.00 GB of memory on meta .*stitch_device cpu"):
        affordable(lambda n: plan(n, 1, 10**9, meta), 1, lambda d: 10**9 if d == meta else 10**12)


def test_refused_before_the_network_runs_over_the_volume(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    network = nn.Conv3d(1, 5, 1).eval()

    def counted(patches: torch.Tensor) -> torch.Tensor:
        calls.append(patches.shape)
        return network(patches)

    monkeypatch.setattr(planning, "available_bytes", lambda _device: 1000)
    monkeypatch.setattr(affordable, "__defaults__", (lambda _device: 1000,))
    with pytest.raises(UserError, match="segmenting needs"):
        LabelMapInferer((16, 16, 16), amp=False)(torch.zeros(1, 1, 64, 32, 32), counted)
    assert len(calls) == 2, "the probe's"


def test_sums_do_not_grow_with_the_length_of_the_scan() -> None:
    settings = SlabSettings((96, 160, 160), 0.625)
    probe = Probe(None, 32, 118, bytes_per_voxel=1000.0)

    def planned(depth: int) -> MemoryPlan:
        layout = WindowLayout.over((depth, 256, 256), settings.roi_size, settings.overlap)
        return plan_memory(layout, probe, settings, (CPU, CPU))

    short, long = planned(200), planned(800)
    assert (short.sums, short.network, short.chunk) == (long.sums, long.network, long.chunk)
    assert long.labels == 4 * short.labels == 800 * 256 * 256
    assert short.sums > 96 * 256 * 256 * 32 * 4


def test_bytes_of_tensors_that_are_alive() -> None:
    start = torch.zeros(1000)
    with LiveBytes() as live:
        first = start + 1  # 4000
        second = first + 1  # 8000
        del first
        third = second + 1  # 8000 again
        view = third.view(10, 100)
    assert live.peak == 8000
    assert live.now == 8000
    del second, third, view
    assert live.now == 0
