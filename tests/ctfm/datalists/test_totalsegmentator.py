from __future__ import annotations

import errno
import gzip
import hashlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from monai.data import load_decathlon_datalist

from ctfm.base.errors import UserError
from ctfm.contract.classes import CLASS_GROUPS, TOTALSEGMENTATOR_V1, TOTALSEGMENTATOR_V2, ClassGroup
from ctfm.datalists.datasets import totalsegmentator_masks as _masks
from ctfm.datalists.datasets.totalsegmentator import totalsegmentator
from ctfm.datalists.splits import ct_fm_validation

SHAPE = (4, 5, 6)
AFFINE = np.array([[-1.5, 0, 0, 10.25], [0, 0, 1.5, -20], [0, 1.5, 0, 30], [0, 0, 0, 1.0]])
FEW = {i: TOTALSEGMENTATOR_V2[i] for i in (1, 5, 51, 90, 92, 117)}
HEADER = "image_id;age;gender;institute;study_type;split;manufacturer"
VISTA3D = Path(__file__).resolve().parents[4] / "shared/data/splits/vista3d_TotalSegmentatorV2.json"

# Positions in the training list of VISTA3D's split file of those subjects that the table published
# with CT-FM's semantic search (474 subjects) marks as validation, and of some it marks as training.
PUBLISHED_VALIDATION = {
    76: "s0994",
    107: "s0765",
    231: "s0635",
    280: "s1038",
    318: "s1422",
    327: "s0373",
    371: "s0928",
    405: "s0536",
    439: "s1135",
    532: "s1028",
    533: "s0565",
    538: "s0612",
    703: "s1343",
    774: "s0648",
    841: "s0355",
    865: "s0959",
}
PUBLISHED_TRAINING = {0, 2, 3, 4, 6, 10, 11, 12, 17, 18, 21, 27, 33, 35, 37, 39, 40, 42, 45, 47}


def nifti(data, affine=AFFINE):
    return gzip.compress(nib.Nifti1Image(data, affine).to_bytes(), compresslevel=1, mtime=0)


EMPTY = nifti(np.zeros(SHAPE, np.uint8))


@dataclass
class Release:
    """A release folder in miniature: a mask for each class, empty unless given."""

    root: Path
    classes: dict[int, str]
    group: str
    rows: list[str] = field(default_factory=list)

    def subject(self, name, split="train", masks=None):
        folder = self.root / name / "segmentations"
        folder.mkdir(parents=True)
        ct = np.random.default_rng(int(name[1:])).integers(-1000, 1000, SHAPE, dtype=np.int16)
        (self.root / name / "ct.nii.gz").write_bytes(nifti(ct))
        for class_name in self.classes.values():
            (folder / f"{class_name}.nii.gz").write_bytes(EMPTY)
        for class_name, mask in (masks or {}).items():
            (folder / f"{class_name}.nii.gz").write_bytes(nifti(np.asarray(mask, np.uint8)))
        self.row(f"{name};50;f;A;ct thorax;{split};x")

    def row(self, text):
        self.rows.append(text)
        text = "\n".join([HEADER, *self.rows]) + "\n"
        (self.root / "meta.csv").write_text(text, encoding="utf-8-sig")

    def mask(self, subject, name):
        return self.root / subject / "segmentations" / f"{name}.nii.gz"

    def label(self, subject, group=None):
        return self.root / subject / f"labels_{group or self.group}.nii.gz"

    def run(self, **options):
        options = {"workers": 1, "group": self.group, **options}
        return totalsegmentator(self.root, self.root.parent / "list.json", **options)

    def refused(self, **options):
        """The one-line error; no datalist may exist."""
        with pytest.raises(UserError) as raised:
            self.run(**options)
        assert not (self.root.parent / "list.json").exists()
        assert "\n" not in str(raised.value)
        return str(raised.value)


def box(*slices):
    mask = np.zeros(SHAPE, np.uint8)
    mask[slices] = 1
    return mask


def voxels(path):
    return np.asanyarray(nib.load(path).dataobj)


def subjects(content, part):
    return [row["image"].split("/")[0] for row in content.get(part, [])]


def three_subjects(release):
    release.subject("s0000", "train", {"liver": box(slice(0, 2)), "rib_left_1": box(slice(1, 3))})
    release.subject("s0001", "val", {"spleen": box(slice(0, 1))})
    release.subject("s0002", "test")
    return release


@pytest.fixture(autouse=True)
def few_classes(monkeypatch):
    """A class group of six classes, because 117 masks a subject take their time."""
    monkeypatch.setitem(CLASS_GROUPS, "few", ClassGroup("few", "v2", tuple(FEW)))


@pytest.fixture
def release(tmp_path):
    return three_subjects(Release(tmp_path / "release", FEW, "few"))


@pytest.fixture
def full(tmp_path):
    """As `release`, with all 117 masks."""
    return three_subjects(Release(tmp_path / "release", TOTALSEGMENTATOR_V2, "v2"))


@pytest.fixture
def large(tmp_path):
    """Twenty training subjects."""
    release = Release(tmp_path / "release", FEW, "few")
    for i in range(20):
        release.subject(f"s{i:04d}")
    return release


# --- label files ----------------------------------------------------------------------------


def test_label_file_equals_the_slow_merge(full):
    rng = np.random.default_rng(0)
    names = ["liver", "spleen", "heart", "rib_left_1", "costal_cartilages", "brain"]
    masks = {name: rng.random(SHAPE) < 0.4 for name in names}
    full.subject("s0007", "train", masks)
    full.run()
    slow = np.zeros(SHAPE, int)
    for i, name in TOTALSEGMENTATOR_V2.items():  # later classes overwrite earlier ones
        if name in masks:
            slow[masks[name]] = i
    np.testing.assert_array_equal(voxels(full.label("s0007")), slow)


def test_higher_id_wins_where_masks_overlap(release):
    release.run()
    labels = voxels(release.label("s0000"))
    assert [labels[i].max() for i in range(4)] == [5, 92, 92, 0]
    assert labels.dtype == np.uint8


@pytest.mark.parametrize(("qform", "sform"), [(1, 1), (0, 2), (1, 0)])
def test_label_file_has_the_geometry_fields_of_the_ct(release, qform, sform):
    ct = nib.Nifti1Image(np.zeros(SHAPE, np.int16), AFFINE)
    ct.set_qform(AFFINE, qform)
    ct.set_sform(AFFINE, sform)
    ct.header.set_slope_inter(2, -1024)
    ct.header["cal_max"] = 300
    release.root.joinpath("s0000/ct.nii.gz").write_bytes(gzip.compress(ct.to_bytes()))
    release.run()
    label = nib.load(release.label("s0000"))
    np.testing.assert_allclose(label.affine, AFFINE, atol=1e-5)
    assert (label.header["qform_code"], label.header["sform_code"]) == (qform, sform)
    assert label.header["cal_max"] == 0
    assert label.dataobj.slope == 1
    assert label.dataobj.inter == 0
    assert set(np.unique(voxels(release.label("s0000")))) == {0, 5, 92}


def test_masks_of_other_types_count_above_zero(release):
    mask = box(slice(0, 2)).astype(np.float32) * 0.7
    release.mask("s0000", "liver").write_bytes(nifti(mask))
    release.mask("s0000", "rib_left_1").write_bytes(nifti(box(slice(3, 4)).astype(">i2") * 255))
    release.run()
    assert [voxels(release.label("s0000"))[i].max() for i in range(4)] == [5, 5, 0, 92]


def test_masks_larger_than_a_block(release, monkeypatch):
    monkeypatch.setattr(_masks, "BLOCK", 16)
    test_higher_id_wins_where_masks_overlap(release)


def test_group_reads_its_own_masks_only_and_keeps_v2_ids(full):
    for path in full.root.glob("s*/segmentations/rib_*.nii.gz"):
        path.unlink()
    out = full.run(group="merlin")
    assert set(np.unique(voxels(full.label("s0000", "merlin")))) == {0, 5}
    content = json.loads(out.read_text())
    assert len(content["labels"]) == 1 + len(CLASS_GROUPS["merlin"].ids)
    assert content["training"][0]["label"] == "s0000/labels_merlin.nii.gz"


def test_group_of_v1_is_mapped_by_name_and_says_what_is_missing(full, capsys):
    content = json.loads(full.run(group="cardiac").read_text())
    group = CLASS_GROUPS["cardiac"]
    assert {int(i) for i in content["labels"]} == {0, *group.v2_ids}
    note = next(line for line in capsys.readouterr().err.splitlines() if "note" in line)
    assert all(name in note for name in group.missing_in_v2)
    assert "heart_myocardium" in note


def test_labels_in_another_folder(release, tmp_path):
    out = release.run(labels=tmp_path / "labels")
    assert not release.label("s0000").exists()
    (row,) = load_decathlon_datalist(out, True, "training", base_dir=release.root)
    assert row["label"] == str(tmp_path / "labels" / "s0000_few.nii.gz")
    assert Path(row["label"]).is_file()
    assert json.loads(out.read_text())["training"][0]["label"] == "../labels/s0000_few.nii.gz"


# --- datalist -------------------------------------------------------------------------------


def test_datalist_loads_in_monai(release):
    out = release.run()
    for part, subject in {"training": "s0000", "validation": "s0001", "test": "s0002"}.items():
        folder = release.root / subject
        rows = load_decathlon_datalist(out, True, part, base_dir=release.root)
        assert rows == [
            {"image": str(folder / "ct.nii.gz"), "label": str(folder / "labels_few.nii.gz")}
        ]


def test_provenance(full):
    content = json.loads(full.run(seed=3).read_text())
    digest = hashlib.sha256((full.root / "meta.csv").read_bytes()).hexdigest()
    assert content["provenance"] == {
        "tool": "ctfm datalist totalsegmentator",
        "version": content["provenance"]["version"],
        "meta_sha256": digest,
        "split": "meta.csv",
        "split_sha256": digest,
        "validation": "the split column",
        "group": "v2",
        "fraction": 1.0,
        "scans": None,
        "seed": 3,
        "counts": {"training": 1, "validation": 1, "test": 1},
        "left_out": [],
    }
    assert content["labels"] == {"0": "background"} | {
        str(i): name for i, name in TOTALSEGMENTATOR_V2.items()
    }
    assert str(full.root) not in json.dumps(content)


def test_rerun_gives_the_same_bytes_with_any_number_of_workers(full):
    first = full.run().read_bytes()
    labels = {s: full.label(s).read_bytes() for s in ("s0000", "s0001", "s0002")}
    for subject in labels:
        full.label(subject).unlink()
    full.rows.reverse()
    assert full.run(workers=2, fraction=1).read_bytes() == first
    assert {s: full.label(s).read_bytes() for s in labels} == labels


def test_fraction_is_nested_and_of_the_training_part_only(large):
    large.subject("s0100", "val")
    drawn = {}
    for fraction in (0.1, 0.25, 1.0):
        content = json.loads(large.run(fraction=fraction).read_text())
        drawn[fraction] = set(subjects(content, "training"))
        assert subjects(content, "validation") == ["s0100"]
    assert [len(some) for some in drawn.values()] == [2, 5, 20]
    assert drawn[0.1] < drawn[0.25] < drawn[1.0]
    few = json.loads(large.run(scans=5).read_text())
    assert set(subjects(few, "training")) == drawn[0.25]


def test_fraction_merges_only_what_it_lists(large):
    large.run(scans=3)
    assert len(list(large.root.glob("s*/labels_few.nii.gz"))) == 3


# --- split files ----------------------------------------------------------------------------


def split_file(path, training, testing=(), **more):
    rows = [
        {"image": f"{s}/ct.nii.gz", "label": f"{s}/seg.nii.gz", "fold": fold}
        for s, fold in training
    ]
    tests = [{"image": f"{s}/ct.nii.gz", "label": f"{s}/seg.nii.gz"} for s in testing]
    path.write_text(json.dumps({"training": rows, "testing": tests, **more}))
    return path


def test_fold_of_a_split_file_validates(large, tmp_path):
    splits = split_file(
        tmp_path / "five.json", [(f"s{i:04d}", i % 5) for i in range(15)], ["s0016", "s0015"]
    )
    content = json.loads(large.run(splits=splits, fold=4).read_text())
    assert subjects(content, "validation") == ["s0004", "s0009", "s0014"]
    assert subjects(content, "test") == ["s0015", "s0016"]
    assert len(content["training"]) == 12
    assert {row["fold"] for row in content["training"]} == {0, 1, 2, 3}
    assert content["provenance"]["validation"] == "fold 4"
    assert content["provenance"]["split"] == "five.json"
    assert content["provenance"]["split_sha256"] == hashlib.sha256(splits.read_bytes()).hexdigest()


def test_split_file_without_a_fold_draws_as_ct_fm_did(large, tmp_path):
    names = [f"s{i:04d}" for i in range(20)]
    splits = split_file(tmp_path / "five.json", [(s, 0) for s in names])
    (large.root / "meta.csv").unlink()
    content = json.loads(large.run(splits=splits).read_text())
    assert set(subjects(content, "validation")) == ct_fm_validation(names)
    assert len(content["validation"]) == 2
    assert "test" not in content
    assert content["provenance"]["meta_sha256"] is None
    assert content["provenance"]["validation"] == "the draw of CT-FM's published code"


def test_split_file_with_a_validation_list(large, tmp_path):
    splits = split_file(
        tmp_path / "own.json", [("s0000", 0)], validation=["imagesVal/s0001_0000.nii.gz"]
    )
    content = json.loads(large.run(splits=splits).read_text())
    assert subjects(content, "training") == ["s0000"]
    assert subjects(content, "validation") == ["s0001"]


def test_ct_fm_validation_holds_the_published_subjects():
    drawn = ct_fm_validation([str(i) for i in range(980)])
    assert len(drawn) == 52
    assert {str(i) for i in PUBLISHED_VALIDATION} <= drawn
    assert drawn.isdisjoint(str(i) for i in PUBLISHED_TRAINING)


@pytest.mark.skipif(not VISTA3D.is_file(), reason="VISTA3D's split file is not in ../shared/data")
def test_vista3d_split_file_on_a_small_copy_of_the_release(large):
    for subject in ("s0994", "s0264", "s0754"):
        large.subject(subject)
    content = json.loads(large.run(splits=VISTA3D, skip_bad=True).read_text())
    assert "s0994" in subjects(content, "validation")
    assert "s0264" in subjects(content, "training")
    assert "s0754" in subjects(content, "test")
    counts, left_out = content["provenance"]["counts"], content["provenance"]["left_out"]
    assert sum(counts.values()) + len(left_out) == 980 + 248


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "needs a list 'training', and has list"),
        ('{"train": []}', "needs a list 'training', and has train"),
        ('{"training": [{"image": "ct.nii.gz"}]}', "'ct.nii.gz' does not name one subject"),
        ('{"training": [{"image": "s1/s2.nii.gz"}]}', "'s1/s2.nii.gz' does not name one subject"),
        ('{"training": {"s0000": 1}}', "training is not a list"),
    ],
)
def test_split_file_of_another_format(release, tmp_path, text, message):
    (tmp_path / "split.json").write_text(text)
    assert message in release.refused(splits=tmp_path / "split.json")


def test_split_file_missing(release, tmp_path):
    message = release.refused(splits=tmp_path / "gone.json")
    assert "gone.json cannot be read: No such file" in message


def test_fold_that_is_not_there(release, tmp_path):
    splits = split_file(tmp_path / "five.json", [("s0000", 0), ("s0001", 3)])
    assert "no training entry of fold 4; folds there: 0, 3" in release.refused(
        splits=splits, fold=4
    )


def test_fold_without_a_split_file(release):
    assert "fold 4 belongs to a split file" in release.refused(fold=4)


# --- going on after an interruption ---------------------------------------------------------


def stamp(path):
    return path.stat().st_mtime_ns, path.read_bytes()


def test_finished_label_files_are_not_touched(release, capsys):
    release.run()
    before = {s: stamp(release.label(s)) for s in ("s0000", "s0001", "s0002")}
    release.label("s0001").unlink()
    release.run()
    assert "2 of 3 label files were there already" in capsys.readouterr().err
    after = {s: stamp(release.label(s)) for s in before}
    assert [s for s in before if after[s] == before[s]] == ["s0000", "s0002"]
    assert after["s0001"][1] == before["s0001"][1]


def test_label_file_is_made_again_when_a_mask_is_newer(release):
    release.run()
    path = release.mask("s0000", "liver")
    path.write_bytes(nifti(box(slice(3, 4))))
    later = release.label("s0000").stat().st_mtime_ns + 10**9
    os.utime(path, ns=(later, later))
    release.run()
    assert voxels(release.label("s0000"))[3].max() == 5


def test_label_file_is_made_again_when_a_mask_has_another_size_and_an_old_date(release):
    release.run()
    path = release.mask("s0000", "liver")
    path.write_bytes(nifti(np.random.default_rng(0).integers(0, 2, SHAPE, dtype=np.uint8)))
    os.utime(path, (0, 0))
    release.run()
    assert voxels(release.label("s0000"))[3].max() == 5


@pytest.mark.parametrize("content", [b"", b"half a file", EMPTY[:50], EMPTY])
def test_label_file_that_is_not_ours_or_broken_is_made_again(release, content):
    release.label("s0000").write_bytes(content)
    release.run()
    assert voxels(release.label("s0000")).max() == 92


def test_full_disk_leaves_nothing_half_written(release, monkeypatch):
    def full(*_args, **_options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(nib.Nifti1Image, "to_stream", full)
    message = release.refused()
    assert "labels_few.nii.gz: No space left on device; no partial file was left" in message
    assert "--labels FOLDER" in message
    assert not list(release.root.rglob("*label*"))


RUN = """
import sys
from ctfm.datalists.datasets import totalsegmentator_masks as _masks
from ctfm.datalists.datasets.totalsegmentator import totalsegmentator
from ctfm.base.errors import explain_in_one_line
explain_in_one_line()
_masks.BLOCK = 2  # slow enough to be interrupted
totalsegmentator(sys.argv[1], sys.argv[2], workers=2)
"""


def running(group):
    """Processes of a process group that are alive; a dead one may wait for its parent."""
    stats = Path("/proc").glob("[0-9]*/stat")
    alive = 0
    for path in stats:
        try:
            state, _parent, its_group = path.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        alive += state != "Z" and int(its_group) == group
    return alive


#: So many that a signal comes before all are done, on a busy machine too.
SUBJECTS = 48


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="counts processes in /proc")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_interrupted_run_leaves_whole_files_and_no_processes(tmp_path, number):
    release = Release(tmp_path / "release", TOTALSEGMENTATOR_V2, "v2")
    for i in range(SUBJECTS):
        release.subject(f"s{i:04d}", masks={"liver": box(slice(0, 2))})
    out = tmp_path / "list.json"
    command = [sys.executable, "-c", RUN, str(release.root), str(out)]
    with subprocess.Popen(
        command, start_new_session=True, stderr=subprocess.PIPE, text=True
    ) as process:
        while not list(release.root.glob("s*/labels_v2.nii.gz")):
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.005)
        if number == signal.SIGINT:
            os.killpg(process.pid, number)  # as a terminal does
        else:
            process.kill()
        told = process.communicate(timeout=60)[1]
    deadline = time.monotonic() + 30
    while running(process.pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert running(process.pid) == 0
    finished = {path: stamp(path) for path in release.root.glob("s*/labels_v2.nii.gz")}
    assert 0 < len(finished) < SUBJECTS
    assert all(voxels(path).max() == 5 for path in finished)
    assert not out.exists()
    if number == signal.SIGINT:
        assert told.splitlines()[-1].startswith("error: interrupted")
        assert "Traceback" not in told
        assert not list(release.root.rglob(".*"))
    release.run()
    assert {path: stamp(path) for path in finished} == finished
    assert len(list(release.root.glob("s*/labels_v2.nii.gz"))) == SUBJECTS


def _killed(case):
    os._exit(9)


@pytest.mark.skipif(
    multiprocessing.get_start_method() != "fork", reason="replaces a function in forked workers"
)
def test_killed_worker_is_told_in_one_line(release, monkeypatch):
    monkeypatch.setattr(_masks, "merge_masks", _killed)
    assert "most likely for want of memory: give fewer than 2 --workers" in release.refused(
        workers=2
    )


# --- what is refused ------------------------------------------------------------------------


def test_missing_files_are_all_named(release, capsys):
    (release.root / "s0000/ct.nii.gz").unlink()
    release.mask("s0001", "liver").unlink()
    release.mask("s0001", "heart").unlink()
    for path in (release.root / "s0002/segmentations").iterdir():
        path.unlink()
    (release.root / "s0002/segmentations").rmdir()
    message = release.refused()
    assert message.startswith("3 problems, no datalist was written")
    assert capsys.readouterr().err.splitlines()[-3:] == [
        "s0000: no ct.nii.gz",
        "s0001: 2 of 6 masks are missing: liver.nii.gz, heart.nii.gz",
        "s0002: 6 of 6 masks are missing",
    ]
    assert "s0001: 2 of 6 masks are missing: liver.nii.gz, heart.nii.gz" in message
    assert "--skip_bad" in message


def cut(content):
    return content[: len(content) // 2]


def short(content):
    return gzip.compress(gzip.decompress(content)[:-7])


def flipped(content):
    return content[:-8] + bytes(byte ^ 1 for byte in content[-8:-4]) + content[-4:]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut, "ended before"),
        (short, "truncated"),
        (flipped, "CRC check failed"),
        (lambda _: b"<html>not found</html>", "Not a gzipped file"),
        (lambda _: b"", ""),
        (lambda _: gzip.compress(b"no NIfTI" * 100), ""),
        (lambda _: gzip.compress(b"short"), ""),
    ],
)
@pytest.mark.parametrize("file", ["ct.nii.gz", "segmentations/liver.nii.gz"])
def test_unreadable_files_are_named(release, capsys, file, damage, message):
    path = release.root / "s0000" / file
    path.write_bytes(damage(path.read_bytes()))
    told = release.refused()
    assert f"s0000: {path.name}: " in told
    assert message in told
    assert not release.label("s0000").exists()
    assert release.label("s0001").exists()


def test_two_masks_with_the_same_fault_share_a_line(release, capsys):
    for name in ("liver", "heart"):
        release.mask("s0000", name).write_bytes(nifti(np.zeros((4, 4, 4), np.uint8)))
    shifted = AFFINE + np.eye(4)[:, [3, 0, 1, 2]] * 0.25
    release.mask("s0000", "brain").write_bytes(nifti(np.zeros(SHAPE, np.uint8), shifted))
    release.refused()
    assert capsys.readouterr().err.splitlines()[-2:] == [
        "s0000: liver.nii.gz, heart.nii.gz: has (4, 4, 4) voxels, the CT (4, 5, 6)",
        "s0000: brain.nii.gz: its affine differs from the CT's, by up to 0.25 mm",
    ]


def test_affine_may_differ_by_rounding(release):
    nudged = AFFINE + np.eye(4)[:, [3, 0, 1, 2]] * 1e-4
    release.mask("s0000", "liver").write_bytes(nifti(box(slice(0, 2)), nudged))
    release.run()
    np.testing.assert_allclose(nib.load(release.label("s0000")).affine, AFFINE, atol=1e-6)


def test_subject_in_two_splits_listed_twice_or_not_on_disk(release, capsys):
    release.row("s0001;50;f;A;ct thorax;test;x")
    release.row("s0002;50;f;A;ct thorax;test;x")
    release.row("s0099;50;f;A;ct thorax;train;x")
    release.row("s0098;50;f;A;ct thorax;holdout;x")
    release.row(";50;f;A;ct thorax;train;x")
    message = release.refused()
    assert capsys.readouterr().err.splitlines()[-5:] == [
        "meta.csv line 9: image_id is empty",
        "s0001: listed in two splits, validation and test",
        "s0002: listed twice in test",
        "s0098: split is 'holdout' in meta.csv, not one of train, val, test",
        "s0099: listed in the split, and its folder is not in the release",
    ]
    assert message.startswith("5 problems")


def test_subject_in_two_lists_of_a_split_file(release, tmp_path):
    splits = split_file(tmp_path / "five.json", [("s0000", 0), ("s0001", 1)], ["s0000"])
    message = release.refused(splits=splits, fold=1)
    assert "s0000: listed in two splits, training and test" in message


def test_skip_bad_leaves_subjects_out_and_lists_them(release, capsys):
    release.subject("s0003")
    release.mask("s0003", "liver").write_bytes(b"")
    release.row("s0001;50;f;A;ct thorax;test;x")
    content = json.loads(release.run(skip_bad=True).read_text())
    assert content["provenance"]["left_out"] == ["s0001", "s0003"]
    assert subjects(content, "training") == ["s0000"]
    assert "validation" not in content
    told = capsys.readouterr().err
    assert "left out: s0001: listed in two splits, validation and test" in told
    assert "left out: s0003: liver.nii.gz:" in told


def test_skip_bad_with_no_training_subject_left(release):
    (release.root / "s0000/ct.nii.gz").unlink()
    assert "no training subject is left" in release.refused(skip_bad=True)


def test_split_of_another_release(release, tmp_path):
    splits = split_file(tmp_path / "five.json", [("s0500", 0), ("s0501", 1)])
    message = release.refused(splits=splits, fold=0)
    assert "2 problems" in message
    assert "Give the split of this release" in message


def test_folders_outside_the_split_are_noted(release, capsys, tmp_path):
    splits = split_file(tmp_path / "five.json", [("s0000", 0), ("s0001", 1)])
    release.run(splits=splits, fold=1)
    assert "note: 1 subject folders are not in the split (s0002, …)" in capsys.readouterr().err


def test_meta_missing(release):
    (release.root / "meta.csv").unlink()
    message = release.refused()
    assert "meta.csv cannot be read (No such file or directory)" in message
    assert "--splits" in message


def test_meta_with_other_columns(release):
    (release.root / "meta.csv").write_text("subject;age\ns0000;50\n")
    message = release.refused()
    assert "needs the columns image_id and split" in message
    assert "has subject, age:" in message


def test_meta_separated_by_commas(release):
    path = release.root / "meta.csv"
    path.write_text(path.read_text(encoding="utf-8-sig").replace(";", ","))
    message = release.refused()
    assert "image_id,age,gender" in message
    assert "separated by ',', not by ';'" in message


def test_empty_meta(release):
    (release.root / "meta.csv").write_text("")
    assert "and has none" in release.refused()


def test_outer_folder(release, tmp_path):
    with pytest.raises(UserError, match=r"nothing found .* give .*release$"):
        totalsegmentator(tmp_path, tmp_path / "list.json")


@pytest.mark.parametrize("inner", ["s0000", "s0000/segmentations"])
def test_inner_folder(release, tmp_path, inner):
    with pytest.raises(UserError, match="is one subject: give the release folder above it"):
        totalsegmentator(release.root / inner, tmp_path / "list.json")


def test_empty_folder_and_no_folder(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"nothing found .* give the unpacked release"):
        totalsegmentator(tmp_path / "empty", tmp_path / "list.json")
    with pytest.raises(UserError, match="is not a folder"):
        totalsegmentator(tmp_path / "gone", tmp_path / "list.json")


def test_release_v1(tmp_path):
    release = Release(tmp_path / "release", TOTALSEGMENTATOR_V1, "v2")
    release.subject("s0000")
    message = release.refused()
    assert "is release v1 (s0000 has face, and no class that only v2 has)" in message
    assert "10047292" in message


def test_v2_with_extra_masks_is_not_taken_for_v1(release):
    for name in ("heart_myocardium", "face"):
        release.mask("s0000", name).write_bytes(EMPTY)
    assert release.run().is_file()


def test_folder_without_permission(release, monkeypatch):
    def stat(path, **_options):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    case = _masks.Case("s0000", release.root / "ct.nii.gz", {}, release.label("s0000"))
    monkeypatch.setattr(Path, "stat", stat)
    with pytest.raises(UserError, match=r"ct\.nii\.gz cannot be reached: Permission denied"):
        _masks.merge_masks(case)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"group": "liver"}, "no class group is called 'liver'"),
        ({"fraction": 0}, "fraction is 0"),
        ({"scans": 2}, "scans is 2: give a whole number from 1 to 1"),
        ({"workers": 0}, "workers is 0"),
    ],
)
def test_arguments_out_of_range(release, options, message):
    assert message in release.refused(**options)


def test_needs_neither_torch_nor_monai():
    code = (
        "import sys, ctfm.datalists.datasets.totalsegmentator; "
        "sys.exit(bool({'torch', 'monai'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
