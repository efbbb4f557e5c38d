"""Parts of the scans: each scan in one, whatever comes later; whose part, as launchers say."""

from __future__ import annotations

import logging
from collections import Counter

import pytest

from ctfm.base.errors import UserError
from ctfm.base.sharding import Shard, find_shard, local_device, take_shard

NAMES = [f"patient{i:04d}/1.2.840.{i * 37}" for i in range(1000)]
TORCHRUN = {"RANK": "2", "WORLD_SIZE": "4", "LOCAL_RANK": "2"}
#: A batch script knows the job's tasks; what srun starts, those of its step.
BATCH = {"SLURM_JOB_ID": "7", "SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_LOCALID": "0"}
SRUN = {**BATCH, "SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "4", "SLURM_LOCALID": "1"}
ARRAY = {
    **BATCH,
    "SLURM_NTASKS": "1",
    "SLURM_ARRAY_TASK_ID": "5",
    "SLURM_ARRAY_TASK_MIN": "0",
    "SLURM_ARRAY_TASK_MAX": "15",
    "SLURM_ARRAY_TASK_COUNT": "16",
}
KUBERNETES = {"JOB_COMPLETION_INDEX": "5"}


def part(names: list[str], shard: Shard) -> list[str]:
    return [row["name"] for row in take_shard([{"name": name} for name in names], shard)]


class TestParts:
    @pytest.mark.parametrize("count", [1, 2, 7, 64])
    def test_each_scan_is_in_one_part(self, count: int) -> None:
        taken = Counter(name for i in range(count) for name in part(NAMES, Shard(i, count)))
        assert taken == Counter(NAMES)

    def test_scans_that_come_later_move_none(self) -> None:
        """Nor do workers that see the folder at different moments leave one to nobody."""
        for index in range(8):
            before = part(NAMES[::2], Shard(index, 8))
            after = part(sorted([*NAMES, "a/first", "z/last"]), Shard(index, 8))
            assert set(before) == set(after) & set(NAMES[::2])

    def test_parts_stay_the_same_for_good(self) -> None:
        """On every machine, by every Python: results of earlier runs lie by these."""
        assert [part(["p1", "p2", "p3", "a/b é"], Shard(i, 3)) for i in range(3)] == [
            ["a/b é"],
            ["p2", "p3"],
            ["p1"],
        ]

    def test_parts_are_of_nearly_one_size(self) -> None:
        sizes = [len(part(NAMES, Shard(i, 8))) for i in range(8)]
        assert 90 < min(sizes) <= max(sizes) < 160

    def test_name_that_is_no_text(self) -> None:
        """File names are bytes; Python keeps what is no UTF-8 as surrogates."""
        assert Shard(0, 1).holds("caf\udce9")

    def test_it_is_said(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO)
        part(NAMES, Shard(1, 2))
        assert "shard 1 of 2: " in caplog.text
        assert " of 1000 scans" in caplog.text

    def test_reports_have_names_of_their_own(self) -> None:
        assert Shard().report == "report.json"
        assert Shard(3, 16).report == "report-03-of-16.json"
        assert len({Shard(i, 10).report for i in range(10)}) == 10


class TestWhosePart:
    @pytest.mark.parametrize(
        ("environment", "expected"),
        [
            ({}, Shard(0, 1)),
            (TORCHRUN, Shard(2, 4)),
            (SRUN, Shard(3, 4)),
            (BATCH, Shard(0, 1)),  # without srun it is one process, whatever the job has
            ({**BATCH, **TORCHRUN}, Shard(2, 4)),
            ({**SRUN, **TORCHRUN}, Shard(2, 4)),  # srun started torchrun, which started this
        ],
        ids=["none", "torchrun", "srun", "batch", "torchrun in batch", "torchrun in srun"],
    )
    def test_as_the_launcher_says(self, environment: dict[str, str], expected: Shard) -> None:
        assert find_shard(environment=environment) == expected

    @pytest.mark.parametrize(
        ("environment", "shards", "expected"),
        [
            (ARRAY, 16, Shard(5, 16)),
            ({**ARRAY, "SLURM_ARRAY_TASK_COUNT": "1"}, 16, Shard(5, 16)),  # one that is repeated
            (KUBERNETES, 16, Shard(5, 16)),
            ({**KUBERNETES, **TORCHRUN}, 64, Shard(22, 64)),
            ({**ARRAY, **SRUN}, 64, Shard(23, 64)),
            ({**KUBERNETES, "RANK": "9", "WORLD_SIZE": "16"}, 16, Shard(9, 16)),
            (ARRAY, 1, Shard(0, 1)),
            (TORCHRUN, 4, Shard(2, 4)),
            (TORCHRUN, 1, Shard(0, 1)),
        ],
        ids=[
            "array",
            "task again",
            "kubernetes",
            "torchrun in each pod",
            "srun in each task",
            "torchrun over all pods",
            "array, own scans",
            "torchrun",
            "torchrun, own scans",
        ],
    )
    def test_arrays_are_told_how_many_they_are(
        self, environment: dict[str, str], shards: int, expected: Shard
    ) -> None:
        assert find_shard(shards=shards, environment=environment) == expected

    @pytest.mark.parametrize("environment", [{}, TORCHRUN, SRUN, ARRAY, KUBERNETES])
    def test_what_is_said_goes_before_the_launcher(self, environment: dict[str, str]) -> None:
        assert find_shard(3, 16, environment) == Shard(3, 16)

    @pytest.mark.parametrize(
        ("shard", "shards", "environment", "told"),
        [
            (None, None, ARRAY, r"task 5 of a Slurm array: add --shards N.*or --shards 1"),
            (None, None, KUBERNETES, "task 5 of a Kubernetes Job: add --shards N"),
            (None, 4, ARRAY, "no shard 5 of 4: they count from 0; tasks of a Slurm array count"),
            (None, 16, {}, "shards is 16, and 1 processes were launched: add --shard"),
            (None, 16, TORCHRUN, "shards is 16, and 4 processes were launched"),
            (16, 16, {}, "no shard 16 of 16: they count from 0"),
            (3, None, {}, "add --shards, the number of all"),
            (None, 0, {}, "shards is 0: give a whole number from 1"),
            (-1, 4, {}, "shard is -1: give a whole number from 0"),
            ("3/16", None, {}, "shard is '3/16'"),
            (True, 4, {}, "shard is True"),
            (None, None, {"RANK": "x", "WORLD_SIZE": "4"}, "RANK is 'x' in the environment"),
            (None, None, {"RANK": "4", "WORLD_SIZE": "4"}, "RANK and WORLD_SIZE are a launcher's"),
        ],
    )
    def test_what_makes_no_sense(
        self, shard: int | None, shards: int | None, environment: dict[str, str], told: str
    ) -> None:
        with pytest.raises(UserError, match=told):
            find_shard(shard, shards, environment)


@pytest.mark.parametrize(
    ("gpus", "environment", "expected"),
    [
        (0, TORCHRUN, "cpu"),
        (4, {}, "cuda:0"),
        (4, TORCHRUN, "cuda:2"),
        (4, SRUN, "cuda:1"),
        (1, TORCHRUN, "cuda:0"),  # a launcher that shows each process its own GPU
    ],
)
def test_processes_of_a_machine_take_its_gpus_in_turn(
    gpus: int, environment: dict[str, str], expected: str
) -> None:
    assert local_device(gpus, environment) == expected
