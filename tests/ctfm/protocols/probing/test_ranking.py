"""Ranking: against loops by hand, an encoder made to be right, and what it refuses."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from itertools import permutations
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.networks.nets.segresnet_ds import SegResEncoder
from torch import Tensor

from ctfm.base.errors import UserError
from ctfm.commands.calling import call
from ctfm.contract.classes import v2_ids
from ctfm.embedding.windows import cut_window
from ctfm.networks.encoders import PooledEncoder
from ctfm.protocols.options import class_ids_of
from ctfm.protocols.probing.cases import OrganCase, load_cases
from ctfm.protocols.probing.encoders import find_candidates, random_candidates
from ctfm.protocols.probing.ranking import rank_checkpoints
from ctfm.protocols.probing.search import best_window, chance, search
from support import make_ct, save

pytestmark = pytest.mark.usefixtures("one_thread")

TINY: dict[str, Any] = {"init_filters": 4, "in_channels": 1, "blocks_down": (1, 1, 1, 1, 1)}
PATCH = (16, 16, 16)
#: Axes as CT-FM has them, so that voxels of files are voxels of the search.
SPL = np.array([[0, 0, -3.0, 60], [0, -3.0, 0, 70], [3.0, 0, 0, 80], [0, 0, 0, 1]])
#: What makes a ranking run in a second.
COARSE: dict[str, Any] = {
    "spacing": (3, 3, 3),
    "patch": PATCH,
    "overlap": 0.25,
    "random_seeds": 1,
    "amp": False,
    "device": "cpu",
    "input_check": "off",
    "progress": False,
}


def encoder(seed: int = 0) -> PooledEncoder:
    torch.manual_seed(seed)
    return PooledEncoder(**TINY).eval()


def write_checkpoint(path: Path, network: SegResEncoder) -> str:
    """As the pretraining bundle keeps them."""
    state = {f"encoder.{name}": tensor for name, tensor in network.state_dict().items()}
    torch.save({"model": {**state, "projection.0.weight": torch.zeros(8, 64)}}, path)
    return str(path)


def write_scans(
    folder: Path, scans: Sequence[tuple[np.ndarray, np.ndarray]], affine: np.ndarray | None = None
) -> str:
    rows = []
    for number, (hu, label) in enumerate(scans):
        save(hu.astype(np.int16), folder / f"{number}.nii.gz", affine)
        save(label.astype(np.uint8), folder / f"{number}_label.nii.gz", affine)
        rows.append({"image": f"{number}.nii.gz", "label": f"{number}_label.nii.gz"})
    (folder / "datalist.json").write_text(json.dumps({"validation": rows}))
    return str(folder / "datalist.json")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Three round bodies with three organs each, at slightly different places."""
    return write_scans(tmp_path_factory.mktemp("data"), [make_ct(seed) for seed in range(3)])


@pytest.fixture(scope="module")
def cases(data: str) -> list[OrganCase]:
    folder = Path(data).parent
    rows = json.loads(Path(data).read_text())["validation"]
    absolute = [{key: str(folder / name) for key, name in row.items()} for row in rows]
    return load_cases(absolute, str(folder), None, (3, 3, 3), PATCH, 0.25)


@pytest.fixture
def checkpoint(tmp_path: Path) -> str:
    return write_checkpoint(tmp_path / "epoch_0010.pt", encoder(7))


class TestCases:
    def test_places_are_those_of_the_files(self, data: str, cases: list[OrganCase]) -> None:
        for number, case in enumerate(cases):
            label = nib.load(Path(data).parent / f"{number}_label.nii.gz")
            array = np.asarray(label.dataobj)
            assert case.name == f"{number}.nii.gz"
            assert list(case.centroids) == [1, 3, 5]
            for i, centroid in case.centroids.items():
                voxel = np.argwhere(array == i).mean(axis=0)
                expected = nib.affines.apply_affine(label.affine, voxel)
                np.testing.assert_allclose(centroid, expected, atol=1e-4)
            voxels = nib.affines.apply_affine(np.linalg.inv(label.affine), case.points)
            for voxel, found in zip(voxels.round().astype(int), case.point_ids, strict=True):
                inside = ((voxel >= 0) & (voxel < array.shape)).all()
                assert found == (array[tuple(voxel)] if inside else 0)
            assert len(set(case.point_ids)) > 1

    def test_a_query_is_centred_on_its_organ(self, cases: list[OrganCase]) -> None:
        case = cases[0]
        for start in case.query_starts.values():
            middle = cut_window(case.image, start, PATCH)[0, 8, 8, 8]
            voxel = start + 8
            assert middle == case.image[0][tuple(voxel)]

    def test_a_thin_scan_is_padded_on_both_sides(self, tmp_path: Path) -> None:
        hu, label = make_ct()
        thin = slice(18, 28)
        data = write_scans(tmp_path, [(hu[:, :, thin], label[:, :, thin])])
        row = {"image": str(tmp_path / "0.nii.gz"), "label": str(tmp_path / "0_label.nii.gz")}
        (case,) = load_cases([row], str(tmp_path), None, (3, 3, 3), PATCH, 0.625)
        assert case.grid.counts[0] == 1
        assert case.image.shape[1] == 16
        image = nib.load(tmp_path / "0.nii.gz")
        top = nib.affines.apply_affine(image.affine, [0, 0, 9])[2]
        assert 0 < case.points[0, 2] < top
        assert Path(data).exists()


class TestSearch:
    @torch.no_grad()
    def test_answers_are_those_of_a_loop(self, cases: list[OrganCase]) -> None:
        network = encoder()
        found = search(cases, network, batch_size=7)
        embedded = {
            case.name: [network(cut_window(case.image, s, PATCH)[None]) for s in case.grid.starts()]
            for case in cases
        }
        expected = []
        for query, target in permutations(cases, 2):
            for i in query.centroids:
                asked = network(cut_window(query.image, query.query_starts[i], PATCH)[None])
                windows = embedded[target.name]
                best = int(np.argmax([torch.cosine_similarity(asked, w).item() for w in windows]))
                distance = np.linalg.norm(target.points[best] - target.centroids[i])
                expected.append((i, distance, float(target.point_ids[best] == i)))
        ids, distances, inside = zip(*expected, strict=True)
        np.testing.assert_array_equal(found.class_ids, ids)
        np.testing.assert_allclose(found.distances_mm, distances)
        np.testing.assert_array_equal(found.inside, inside)

    def test_each_window_and_query_is_embedded_once(self, cases: list[OrganCase]) -> None:
        seen = []

        def count(patches: Tensor) -> Tensor:
            seen.append(len(patches))
            return patches.mean((2, 3, 4)) + 1

        search(cases, count, batch_size=50)
        assert sum(seen) == sum(len(case.points) + len(case.centroids) for case in cases)

    def test_limits_are_those_of_a_loop(self, cases: list[OrganCase]) -> None:
        best, random = best_window(cases), chance(cases)
        place = 0
        for query, target in permutations(cases, 2):
            for i in query.centroids:
                distances = [np.linalg.norm(p - target.centroids[i]) for p in target.points]
                assert best.distances_mm[place] == pytest.approx(min(distances))
                assert best.inside[place] == (target.point_ids[np.argmin(distances)] == i)
                assert random.distances_mm[place] == pytest.approx(np.mean(distances))
                assert random.inside[place] == pytest.approx(np.mean(target.point_ids == i))
                place += 1
        assert place == len(best.distances_mm) == len(random.distances_mm) == 18

    def test_the_same_scan_twice_is_matched_exactly(self, tmp_path: Path) -> None:
        """Organs lie where a window stands, so that the query is one of the windows."""
        rng = np.random.default_rng(0)
        hu, label = rng.integers(20, 900, (40, 40, 40)), np.zeros((40, 40, 40))
        for i, centre in ((1, (8, 20, 26)), (2, (26, 14, 8)), (3, (20, 20, 20))):
            label[tuple(slice(c - 1, c + 2) for c in centre)] = i
        data = write_scans(tmp_path, [(hu, label)] * 2, SPL)
        rows = json.loads(Path(data).read_text())["validation"]
        rows = [{key: str(tmp_path / name) for key, name in row.items()} for row in rows]
        twice = load_cases(rows, "", None, (3, 3, 3), PATCH, 0.625, "off")
        with torch.no_grad():
            found = search(twice, encoder(), batch_size=16)
        np.testing.assert_allclose(found.distances_mm, 0, atol=1e-4)
        np.testing.assert_allclose(best_window(twice).distances_mm, 0, atol=1e-4)
        assert found.inside.all()


def brightness_encoder() -> PooledEncoder:
    """Its embedding is (mean of the patch, 1, 0, …): it sees no texture, by construction."""
    network = PooledEncoder(**TINY)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        network.conv_init.weight[0, 0, 1, 1, 1] = 1
        block = network.layers[0]["blocks"][0]
        block.norm2.bias[1] = 1
        block.conv2.weight[1, 1, 1, 1, 1] = 1
        for level in network.layers[:-1]:
            for channel in (0, 1):  # the mean of 2x2x2 voxels
                level["downsample"].weight[channel, channel, 1:, 1:, 1:] = 1 / 8
    return network.eval()


def ramp(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Brightness says where a voxel is; a texture without mean says the opposite in each scan."""
    height = np.arange(96)[:, None, None]
    place = height / 95 if seed % 2 else 1 - height / 95
    sign = 1 - 2 * (np.indices((96, 16, 16)).sum(0) % 2)
    hu = 100 + 1000 * height / 95 + sign * (30 + 600 * place)
    label = np.zeros(hu.shape)
    for i, start in enumerate((12, 30, 48, 66), start=1):
        label[start : start + 10, 4:12, 4:12] = i
    return hu, label


class TestRanking:
    def test_the_encoder_that_is_right_is_named(self, tmp_path: Path) -> None:
        data = write_scans(tmp_path, [ramp(seed) for seed in range(2)], SPL)
        for name, network in (("right", brightness_encoder()), ("wrong", encoder(0))):
            write_checkpoint(tmp_path / f"{name}.pt", network)
        assert brightness_encoder()(torch.full((1, 1, 16, 16, 16), 0.3))[0, :3].tolist() == (
            pytest.approx([0.3, 1, 0])
        )
        out = tmp_path / "out"
        options = {**COARSE, "overlap": 0.625, "random_seeds": 3, "out": str(out)}
        printed = call(rank_checkpoints, [str(tmp_path / "*.pt")], data, **options)
        assert printed.splitlines()[-1].startswith("best: right.pt, median ")
        assert "inside; below all 3 random encoders (" in printed
        document = json.loads((out / "rank.json").read_text())
        right = document["checkpoints"][0]
        step_mm = 6 * 3
        assert right["median_mm"] <= document["limits"]["nearest window"]["median_mm"] + step_mm / 2
        assert document["random_median_mm"][0] > right["median_mm"] + step_mm
        assert [one["name"] for one in document["checkpoints"]] == ["right.pt", "wrong.pt"]
        printed = call(rank_checkpoints, [str(tmp_path / "wrong.pt")], data, **options)
        assert "inside; NOT below all 3 random encoders (" in printed

    def test_files(self, data: str, checkpoint: str, tmp_path: Path) -> None:
        write_checkpoint(tmp_path / "epoch_0020.pt", encoder(8))
        options = {**COARSE, "out": str(tmp_path / "out"), "random_seeds": 2}
        printed = call(rank_checkpoints, [checkpoint, str(tmp_path / "*.pt")], data, **options)
        names = {path.name for path in (tmp_path / "out").iterdir()}
        assert names == {"rank.csv", "rank.json", "rank.png"}
        assert (tmp_path / "out" / "rank.png").read_bytes()[:4] == b"\x89PNG"
        with (tmp_path / "out" / "rank.csv").open() as file:
            rows = list(csv.DictReader(file))
        encoders = {
            "epoch_0010.pt",
            "epoch_0020.pt",
            "random, seed 0",
            "random, seed 1",
            "nearest window",
            "random window",
        }
        assert {row["checkpoint"] for row in rows} == encoders
        assert all(name in printed for name in encoders)
        mine = [row for row in rows if row["checkpoint"] == "epoch_0010.pt"]
        assert [row["class"] for row in mine] == ["all classes", "spleen", "kidney_left", "liver"]
        assert [row["pairs"] for row in mine] == ["18", "6", "6", "6"]
        assert mine[0]["class_id"] == ""
        mean = np.mean([float(row["mean_mm"]) for row in mine[1:]])
        assert float(mine[0]["mean_mm"]) == pytest.approx(mean, rel=1e-4)
        document = json.loads((tmp_path / "out" / "rank.json").read_text())
        assert sorted(one["epoch"] for one in document["checkpoints"]) == [10, 20]
        assert document["best"] in printed.splitlines()[-1]
        assert document["settings"]["scans"] == ["0.nii.gz", "1.nii.gz", "2.nii.gz"]
        assert document["settings"]["patch"] == [16, 16, 16]

    def test_the_same_again(self, data: str, checkpoint: str, tmp_path: Path) -> None:
        out = tmp_path / "out"
        contents = []
        for _ in range(2):
            call(rank_checkpoints, [checkpoint], data, **COARSE, out=str(out), scans=2)
            torch.rand(3)  # other draws outside must not matter
            contents.append([(out / name).read_bytes() for name in ("rank.csv", "rank.json")])
        assert contents[0] == contents[1]

    def test_only_the_classes_that_are_asked_for(
        self, data: str, checkpoint: str, tmp_path: Path
    ) -> None:
        out = tmp_path / "out"
        call(
            rank_checkpoints, [checkpoint], data, **COARSE, classes=(1, 5, 7), scans=2, out=str(out)
        )
        with (out / "rank.csv").open() as file:
            assert {row["class_id"] for row in csv.DictReader(file)} == {"", "1", "5"}

    @pytest.mark.parametrize(
        ("classes", "ids"),
        [((1, 5), [1, 5]), ("1,5", [1, 5]), (51, [51]), ("merlin", v2_ids("merlin"))],
    )
    def test_classes_are_chosen_by_group_or_id(self, classes: Any, ids: list[int]) -> None:
        assert class_ids_of(classes) == ids

    def test_an_organ_that_lies_around_its_centre_is_told(
        self, checkpoint: str, tmp_path: Path
    ) -> None:
        hu, label = make_ct()
        ring = np.zeros(label.shape, dtype=bool)
        ring[5:35, 5:35, 20] = True
        ring[8:32, 8:32, 20] = False
        hu[ring], label[ring] = 40, 20
        data = write_scans(tmp_path, [(hu, label), make_ct(1)])
        printed = call(rank_checkpoints, [checkpoint], data, **COARSE, out=str(tmp_path / "out"))
        remark = printed.splitlines()[-2]
        assert "1 of 7 queries are centred outside their organ" in remark
        assert "count all the same, as published (colon)" in remark

    def test_a_band_of_random_encoders_for_each_architecture(self, tmp_path: Path) -> None:
        write_checkpoint(tmp_path / "a.pt", encoder())
        wider = SegResEncoder(init_filters=8, in_channels=1, blocks_down=(1, 1, 1, 1, 1))
        write_checkpoint(tmp_path / "b.pt", wider)
        candidates = find_candidates([str(tmp_path / "*.pt")])
        assert [c.name for c in random_candidates(candidates, 2)] == [
            "random 4 x 1-1-1-1-1, seed 0",
            "random 4 x 1-1-1-1-1, seed 1",
            "random 8 x 1-1-1-1-1, seed 0",
            "random 8 x 1-1-1-1-1, seed 1",
        ]


class TestCandidates:
    def test_weights_are_the_checkpoints_and_names_tell_them_apart(self, tmp_path: Path) -> None:
        for run, seed in (("a", 1), ("b", 2)):
            (tmp_path / run).mkdir()
            write_checkpoint(tmp_path / run / "epoch_0450.pt", encoder(seed))
        found = find_candidates([str(tmp_path / "*" / "*.pt")])
        assert [(c.name, c.epoch) for c in found] == [
            ("a/epoch_0450.pt", 450),
            ("b/epoch_0450.pt", 450),
        ]
        state = found[1].network().state_dict()
        assert all(torch.equal(state[n], t) for n, t in encoder(2).state_dict().items())

    def test_checkpoints_of_lightning_have_an_epoch_too(self, tmp_path: Path) -> None:
        state = {f"backbone.{name}": tensor for name, tensor in encoder().state_dict().items()}
        torch.save({"state_dict": state}, tmp_path / "epoch=449-step=225000.ckpt")
        (found,) = find_candidates([str(tmp_path / "epoch=449-step=225000.ckpt")])
        assert found.epoch == 449

    def test_random_weights_are_those_of_the_seed(self, checkpoint: str) -> None:
        first, second = random_candidates(find_candidates([checkpoint]), 2)
        state = second.network().state_dict()
        assert all(torch.equal(state[n], t) for n, t in encoder(1).state_dict().items())
        assert not torch.equal(first.network().conv_init.weight, second.network().conv_init.weight)


class TestMistakes:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"patch": (16, 16, 20)}, r"patch is \[16, 16, 20\]: give sides that 16 divides"),
            ({"patch": 16}, r"patch is \[16\]: give three sizes"),
            ({"spacing": (3, 3)}, r"spacing is \[3, 3\]: give three sizes in mm"),
            ({"spacing": ("a", 3, 3)}, "spacing is"),
            ({"overlap": 1.0}, "overlap is 1.0"),
            ({"batch_size": 0}, "batch_size is 0"),
            ({"random_seeds": 0}, "random_seeds is 0"),
            ({"scans": 1}, "1 scan of list 'validation': two or more are compared"),
            ({"classes": "bones"}, "no class group is called 'bones'"),
            ({"classes": (0,)}, "classes is .* give a group such as organs, or ids"),
            ({"classes": 99}, "no class is in two of the 3 scans"),
            ({"split": "test"}, "has no list 'test'"),
        ],
    )
    def test_arguments(
        self, options: dict[str, Any], message: str, data: str, checkpoint: str, tmp_path: Path
    ) -> None:
        with pytest.raises(UserError, match=message):
            call(
                rank_checkpoints,
                [checkpoint],
                data,
                **{**COARSE, "out": str(tmp_path / "out"), **options},
            )
        assert not (tmp_path / "out").exists()

    def test_checkpoints(self, tmp_path: Path) -> None:
        (tmp_path / "notes.pt").write_text("no checkpoint")
        two = SegResEncoder(init_filters=4, in_channels=2, blocks_down=(1, 1))
        torch.save(two.state_dict(), tmp_path / "two.pt")
        for sources, message in (
            ([], "no checkpoint is given"),
            ([str(tmp_path / "*.ckpt")], "no file matches this pattern"),
            ([str(tmp_path / "notes.pt")], "is not a checkpoint"),
            ([str(tmp_path / "two.pt")], "three dimensions and one channel"),
        ):
            with pytest.raises(UserError, match=message):
                find_candidates(sources)

    def test_a_label_on_another_grid(self, checkpoint: str, tmp_path: Path) -> None:
        hu, label = make_ct()
        data = write_scans(tmp_path, [(hu, label), (hu, label[:-1])])
        with pytest.raises(UserError, match=r"1_label.nii.gz: has .* give its own label"):
            call(rank_checkpoints, [checkpoint], data, **COARSE, out=str(tmp_path / "out"))

    def test_a_scan_without_label_or_without_body(self, checkpoint: str, tmp_path: Path) -> None:
        hu, label = make_ct()
        data = write_scans(tmp_path, [(hu, label), (hu.clip(max=-50), label)])
        with pytest.raises(UserError, match=r"1.nii.gz: nothing lies above 0 HU"):
            call(rank_checkpoints, [checkpoint], data, **COARSE, out=str(tmp_path / "out"))
        rows = [{"image": "0.nii.gz"}, {"image": "1.nii.gz", "label": 1}]
        (tmp_path / "datalist.json").write_text(json.dumps({"validation": rows}))
        with pytest.raises(UserError, match=r"0.nii.gz: the datalist has no label file"):
            call(rank_checkpoints, [checkpoint], data, **COARSE, out=str(tmp_path / "out"))
