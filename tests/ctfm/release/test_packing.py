"""Packing gives the same bytes and leaves nothing half-written; verifying finds each fault."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from monai.bundle import ConfigParser

from contract_differences import contract_differences
from ctfm.base.errors import UserError
from ctfm.contract.tasks import WHOLE_BODY as TASK
from ctfm.release import packing as release
from ctfm.release.configs import CONFIG_CHECKS, config_paths
from ctfm.release.files import FILE_CHECKS, check_archive, shipped_files
from support import WHOLE_BODY

NAME = WHOLE_BODY.name
CHECKS = {**FILE_CHECKS, **CONFIG_CHECKS}


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """The bundle without what stands in the checkout beside it."""
    root = tmp_path / "bundles" / NAME
    for name in shipped_files(WHOLE_BODY):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(WHOLE_BODY / name, root / name)
    return root


def names(path: Path) -> list[str]:
    with zipfile.ZipFile(path) as archive:
        return archive.namelist()


def write(root: Path, name: str, content: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


def change(root: Path, name: str, **values: Any) -> None:
    """Set ids of a JSON config; ``__`` stands for ``::``."""
    parser = ConfigParser(json.loads((root / name).read_text()))
    for key, value in values.items():
        parser[key.replace("__", "::")] = value
    (root / name).write_text(json.dumps(parser.get(), indent=4))


def damage(path: Path, where: int) -> None:
    content = bytearray(path.read_bytes())
    content[where] ^= 0xFF
    path.write_bytes(bytes(content))


def test_packing_again_gives_the_same_bytes(bundle: Path, tmp_path: Path) -> None:
    first = release.pack(bundle, tmp_path / "a")
    for file in bundle.rglob("*.json"):
        os.utime(file, (1, 1))
        file.chmod(0o600)
    second = release.pack(bundle, tmp_path / "b")
    assert first.path.read_bytes() == second.path.read_bytes()
    assert second.path.name == f"{NAME}_v{release.read_version(bundle)}.zip"
    assert names(first.path) == sorted(names(first.path))


def test_zip_holds_the_bundle_and_the_package_and_nothing_local(
    bundle: Path, tmp_path: Path
) -> None:
    for litter in (
        "models/model.pt",
        "eval/x.nii.gz",
        "scans/patient.nii.gz",
        "datalist.json",
        "configs/.hidden.json",
        "docs/__pycache__/x.pyc",
    ):
        write(bundle, litter, "local")
    packed = release.pack(bundle, tmp_path / "dist")
    package = Path(release.__file__).parents[1]
    files = [
        *package.rglob("*.py"),
        *package.rglob("*.pyi"),
        *package.rglob("assets/*"),
        package / "py.typed",
    ]
    sources = {path.relative_to(package).as_posix() for path in files}
    inside = {n.removeprefix(f"{NAME}/") for n in names(packed.path)}
    assert {n.removeprefix("ctfm/") for n in inside if n.startswith("ctfm/")} == sources
    tracked = {n.as_posix() for n in shipped_files(WHOLE_BODY)}
    assert {n for n in inside if not n.startswith("ctfm/")} == tracked
    assert packed.left_out == ("datalist.json", "eval", "models", "scans")
    assert "left out: datalist.json, eval, models, scans" in str(packed)


def test_hashes_and_address_are_those_of_the_zip(bundle: Path, tmp_path: Path) -> None:
    dist = tmp_path / "dist"
    write(dist, "model_info.json", '{"other_v1.0.0": {"checksum": "00", "source": "https://o"}}')
    packed = release.pack(bundle, dist, url_base="https://host.org/releases/")
    content = packed.path.read_bytes()
    assert packed.sha256 == hashlib.sha256(content).hexdigest()
    stated = (dist / f"{packed.path.name}.sha256").read_text()
    assert stated == f"{packed.sha256}  {packed.path.name}\n"  # what sha256sum -c reads
    assert json.loads((dist / "model_info.json").read_text()) == {
        "other_v1.0.0": {"checksum": "00", "source": "https://o"},
        packed.path.stem: {
            "checksum": hashlib.sha1(content).hexdigest(),
            "source": f"https://host.org/releases/{packed.path.name}",
        },
    }


def test_without_an_address_the_report_says_so(bundle: Path, tmp_path: Path) -> None:
    packed = release.pack(bundle, tmp_path / "dist")
    assert packed.source == packed.path.name
    assert "url_base" in str(packed)


def test_weights_are_packed_on_request_alone(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="download_large_files"):
        release.pack(bundle, tmp_path, with_weights=True)
    listed = yaml.safe_load((bundle / "large_files.yml").read_text())["large_files"][0]["path"]
    for file in ("models/model.pt", "models/last.pt", listed):
        write(bundle, file, "weights")
    inside = names(release.pack(bundle, tmp_path, with_weights=True).path)
    weights = {n.removeprefix(f"{NAME}/") for n in inside if n.startswith(f"{NAME}/models/")}
    assert weights == {"models/model.pt", listed}


def test_an_interrupted_pack_leaves_the_former_release_as_it_was(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dist = tmp_path / "dist"
    release.pack(bundle, dist)
    before = {p.name: p.read_bytes() for p in dist.iterdir()}
    write(bundle, "docs/README.md", "changed")

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(release.shutil, "copyfileobj", interrupt)
    with pytest.raises(KeyboardInterrupt):
        release.pack(bundle, dist)
    assert {p.name: p.read_bytes() for p in dist.iterdir()} == before


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda root: (root / "configs/metadata.json").unlink(), "is no bundle"),
        (lambda root: write(root, "configs/metadata.json", "{"), "is no JSON"),
        (lambda root: write(root, "configs/metadata.json", "[]"), "holds a list"),
        (lambda root: change(root, "configs/metadata.json", version="1.0"), "write X.Y.Z"),
        (lambda root: (root / "LICENSE").unlink(), "no LICENSE"),
        (lambda root: write(root.parents[1], "dist/model_info.json", "[]"), "no table of releases"),
    ],
)
def test_what_cannot_be_packed_is_refused(
    bundle: Path, tmp_path: Path, spoil: Callable[[Path], object], message: str
) -> None:
    spoil(bundle)
    with pytest.raises(UserError, match=message):
        release.pack(bundle, tmp_path / "dist")


def test_names_that_monai_takes_apart_and_bad_addresses_are_refused(
    bundle: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="url_base"):
        release.pack(bundle, tmp_path, url_base="host/releases")
    bundle.rename(bundle.with_name("ct_vessels"))
    with pytest.raises(UserError, match="_v"):
        release.pack(bundle.with_name("ct_vessels"), tmp_path)


def test_a_sound_bundle_and_its_zip_pass_every_check(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert [one.name for one in release.verify_bundle(bundle)] == list(CHECKS)
    packed = release.pack(bundle, tmp_path / "dist")
    capsys.readouterr()
    outcomes = release.verify_bundle(packed.path)
    assert [one.name for one in outcomes] == ["archive", *CHECKS]
    assert capsys.readouterr().out.splitlines() == [str(one) for one in outcomes]
    assert all(str(one).startswith("ok ") for one in outcomes)


def test_every_failed_check_is_named(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (bundle / "LICENSE").unlink()
    write(bundle, "configs/broken.json", "{")
    write(bundle, "large_files.yml", "large_files: 3")
    failed = ("documents", "large files", "sizes", "configs", "references", "targets")
    with pytest.raises(UserError, match=f"{len(failed)} of {len(CHECKS)} checks") as error:
        release.verify_bundle(bundle)
    lines = capsys.readouterr().out.splitlines()
    assert tuple(line[7:20].strip() for line in lines if line.startswith("FAILED")) == failed
    assert all(f"{name}: " in str(error.value) for name in failed)


def large(root: Path, **entry: str) -> None:
    content = {"path": "models/model.pt", "url": "https://host.org/model.pt", **entry}
    write(root, "large_files.yml", json.dumps({"large_files": [content]}))


FAULTS: list[tuple[str, Callable[[Path], object], str]] = [
    ("metadata", lambda b: change(b, "configs/metadata.json", version="9.9.9"), "changelog"),
    ("metadata", lambda b: change(b, "configs/metadata.json", monai_version=""), "monai_version"),
    ("documents", lambda b: (b / "docs/data_license.txt").unlink(), "docs/data_license.txt"),
    ("documents", lambda b: write(b, "docs/README.md", ""), "docs/README.md"),
    ("large files", lambda b: large(b, path="../model.pt"), "leaves the bundle"),
    ("large files", lambda b: large(b, path="/model.pt"), "leaves the bundle"),
    ("large files", lambda b: large(b, url="model.pt"), "cannot be downloaded"),
    ("large files", lambda b: large(b, hash_val="a" * 32, hash_type="md5"), "sha256"),
    ("large files", lambda b: large(b, hash_val="a" * 63, hash_type="sha256"), "sha256"),
    ("large files", lambda b: write(b, "large_files.yml", "large_files: {"), "should hold a list"),
    ("sizes", lambda b: write(b, "docs/atlas.txt", "x" * (26 << 20)), r"atlas.txt \(26 MB\)"),
    ("portable", lambda b: write(b, "configs/a.yaml", "f: '$lambda x: x'"), "lambda"),
    ("portable", lambda b: write(b, "configs/a.yaml", "dataset_dir: /data/ct"), "/data/ct"),
    ("portable", lambda b: change(b, "configs/train.json", dataset_dir="/ct"), '"/ct'),
    ("portable", lambda b: write(b, "docs/README.md", "cd /home/me/x"), "/home/me"),
    ("configs", lambda b: write(b, "configs/deep/er/x.yaml", "a: ["), "x.yaml"),
    ("configs", lambda b: write(b, "configs/x.yaml", "[1]"), "holds a list"),
    (
        "configs",
        lambda b: [(b / f"configs/{n}.json").unlink() for n in ("train", "inference")],
        "no entry point",
    ),
    ("references", lambda b: change(b, "configs/train.json", seed="@sed"), "@sed"),
    ("references", lambda b: write(b, "configs/x.yaml", "seed: '%sed'"), "sed"),
    ("references", lambda b: write(b, "configs/x.yaml", "train::nothing::here: 1"), "nothing"),
    ("targets", lambda b: write(b, "configs/deep/x.yaml", "a: [{_target_: Spam}]"), "Spam cannot"),
    ("targets", lambda b: write(b, "configs/x.yaml", "a: {_target_: math.pi}"), "be called"),
    ("targets", lambda b: write(b, "configs/x.yaml", "loss::loss::smooth: 1"), "DiceCELoss"),
    ("targets", lambda b: change(b, "configs/train.json", a={"_target_": "Spacingd"}), "Spacingd"),
]


@pytest.mark.parametrize(
    ("check", "spoil", "message"), FAULTS, ids=lambda v: v if isinstance(v, str) else ""
)
def test_each_check_finds_its_faults(
    bundle: Path, check: str, spoil: Callable[[Path], object], message: str
) -> None:
    spoil(bundle)
    with pytest.raises(UserError, match=message):
        CHECKS[check](bundle)


#: What differs from the contract, and what is said of it.
DIFFERENCES = [
    (lambda b: change(b, "configs/inference.json", spacing=[1, 1, 1]), r"1\.5"),
    (lambda b: change(b, "configs/train.json", epochs=3), "train.*epochs is 3.*300"),
    (lambda b: change(b, "configs/train.json", network_def__norm="INSTANCE"), "norm"),
    (lambda b: change(b, "configs/train.json", optimizer={"_target_": "x"}), "AdamW"),
    (lambda b: change(b, "configs/train.json", train__random_transforms=[]), "missing"),
]


@pytest.mark.parametrize(("spoil", "message"), DIFFERENCES)
def test_configs_that_differ_from_the_contract_are_found(
    bundle: Path, spoil: Callable[[Path], object], message: str
) -> None:
    spoil(bundle)
    assert re.search(message, "; ".join(contract_differences(bundle)))


def test_an_argument_that_is_left_out_is_held_to_its_default(bundle: Path) -> None:
    change(bundle, "configs/train.json", optimizer={"_target_": "torch.optim.AdamW", "lr": 2e-4})
    assert contract_differences(bundle) == [
        "train.json: AdamW::weight_decay is 0.01, the contract has 1e-05"
    ]


def test_configs_in_subfolders_are_seen(bundle: Path) -> None:
    write(bundle, "configs/deep/er/x.yaml", "a: 1")
    assert bundle / "configs/deep/er/x.yaml" in config_paths(bundle)
    assert bundle / "configs/metadata.json" not in config_paths(bundle)


def test_a_copy_of_the_package_that_lacks_something_is_found(bundle: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(release.pack(bundle, tmp_path / "dist").path) as archive:
        archive.extractall(tmp_path)
    root = tmp_path / NAME
    assert "defines all" in CHECKS["package"](root)
    assert "another" not in CHECKS["targets"](root)
    source = (root / "ctfm" / "imaging" / "transforms.py").read_text()
    write(root, "ctfm/imaging/transforms.py", source.replace("class LoadScand", "class Other"))
    (root / "ctfm" / "base" / "files.py").unlink()
    with pytest.raises(
        UserError, match=r"ctfm\.base\.files\.\w+, .*ctfm\.imaging\.(transforms\.)?LoadScand"
    ):
        CHECKS["package"](root)
    assert "another" in CHECKS["targets"](root)


def test_expressions_of_the_training_recipe_give_the_numbers_of_the_contract() -> None:
    parser = ConfigParser()
    parser.read_config(str(WHOLE_BODY / "configs" / "train.json"))
    warmup = parser.get_parsed_content("lr_scheduler::warmup_steps")
    assert warmup == pytest.approx(TASK.warmup_share * TASK.epochs)
    assert parser.get_parsed_content("lr_scheduler::end_lr") == pytest.approx(
        TASK.end_learning_rate_share * TASK.learning_rate
    )
    crop = next(
        i
        for i, transform in enumerate(parser.get("train::crop_transforms"))
        if transform["_target_"] == "RandCropByLabelClassesd"
    )
    ratios = parser.get_parsed_content(f"train::crop_transforms::{crop}::ratios")
    assert ratios == [TASK.background_ratio] + [TASK.class_ratio] * 117


@pytest.mark.parametrize(
    ("entry", "mode"),
    [
        (f"{NAME}/../../evil.py", 0o100644),
        ("/etc/evil", 0o100644),
        (f"{NAME}\\..\\evil", 0o100644),
        (f"{NAME}/link", 0o120777),
    ],
)
def test_a_zip_that_would_write_elsewhere_is_not_unpacked(
    tmp_path: Path, entry: str, mode: int, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / f"{NAME}_v0.1.0.zip"
    with zipfile.ZipFile(path, "w") as archive:
        info = zipfile.ZipInfo(entry)
        info.external_attr = mode << 16
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(UserError, match=r"1 of 1 checks failed; archive: .* lead out"):
        release.verify_bundle(path)
    assert capsys.readouterr().out.startswith("FAILED archive")


def test_damaged_zips_are_found(bundle: Path, tmp_path: Path) -> None:
    path = release.pack(bundle, tmp_path).path
    assert check_archive(path).endswith(f"files in {NAME}/")
    damage(path, 200)
    with pytest.raises(UserError, match=r"\.zip\.sha256 was written for"):
        check_archive(path)
    path.with_name(f"{path.name}.sha256").unlink()
    with pytest.raises(UserError, match=r"LICENSE is damaged|no readable zip"):
        check_archive(path)
    path.write_bytes(b"not a zip")
    with pytest.raises(UserError, match="no readable zip"):
        check_archive(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("another/LICENSE", "x")
    with pytest.raises(UserError, match="one folder of its name"):
        check_archive(path)
    with pytest.raises(UserError, match="no readable zip"):
        release.verify_bundle(tmp_path / "absent.zip")
