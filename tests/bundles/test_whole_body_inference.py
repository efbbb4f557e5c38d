"""The whole-body bundle infers: any orientation, any format, and going on past bad files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import itk
import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from monai.networks.nets import SegResNetDS
from nibabel.orientations import axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform

from ctfm.base.errors import UserError
from ctfm.training.batchnorm import measure_statistics
from dicom_support import write_ct
from support import make_ct, run_apart, run_here, save


@pytest.fixture
def inference(tmp_path: Path) -> dict[str, Any]:
    """Overrides of a tiny network whose weights lie where a bundle's weights lie."""
    torch.manual_seed(0)
    network = SegResNetDS(
        init_filters=4, blocks_down=(1, 1, 1, 1, 1), dsdepth=2, out_channels=4, in_channels=1
    )
    image = torch.from_numpy(make_ct(side=48)[0] / 3072 + 1 / 3).float()[None, None]
    measure_statistics(network, network, [image])  # so that features, and labels, differ by place
    torch.save(network.state_dict(), tmp_path / "model.pt")
    return {
        "class_ids": [1, 3, 5],
        "network_def__out_channels": 4,
        "checkpoint": str(tmp_path / "model.pt"),
        "output_dir": str(tmp_path / "out"),
        "progress": False,
        "overlap": 0.25,
        "amp": False,
    }


def reoriented(path: Path, axcodes: str, target: Path) -> Path:
    """The same scan with its axes permuted and flipped, affine accordingly."""
    image = nib.load(path)
    change = ornt_transform(io_orientation(image.affine), axcodes2ornt(axcodes))
    array = nib.orientations.apply_orientation(np.asanyarray(image.dataobj), change)
    return save(array, target, image.affine @ inv_ornt_aff(change, image.shape))


def test_labels_lie_on_the_grid_of_the_input(inference: dict[str, Any], tmp_path: Path) -> None:
    rotation = np.array([[0.98, -0.17, 0.05], [0.17, 0.98, -0.03], [-0.05, 0.04, 1.0]])
    affine = np.eye(4)
    affine[:3, :3] = rotation @ np.diag([2.0, 3.5, 2.5])
    affine[:3, 3] = (-50, 12, 700)
    path = save(make_ct()[0], tmp_path / "oblique.nii.gz", affine)
    run_here("inference", **inference, input=str(path))
    result = nib.load(tmp_path / "out" / "oblique_seg.nii.gz")
    assert result.get_data_dtype() == np.uint8
    assert result.shape == (40, 40, 40)
    np.testing.assert_allclose(result.affine, nib.load(path).affine, atol=1e-5)
    labels = np.asanyarray(result.dataobj)
    assert set(np.unique(labels)) <= {0, 1, 3, 5}
    assert len(np.unique(labels)) > 1, "an empty result would prove nothing"

    names = json.loads((tmp_path / "out" / "oblique_seg.json").read_text())
    for class_id, found in names["found"].items():
        assert found["voxels"] == int((labels == int(class_id)).sum())
    assert (tmp_path / "out" / "oblique_preview.png").read_bytes()[:4] == b"\x89PNG"
    assert list((tmp_path / "out").glob(".*")) == []


@pytest.mark.parametrize("axcodes", ["LPS", "SPL", "AIR"])
def test_labels_do_not_depend_on_how_the_scan_is_stored(
    axcodes: str, inference: dict[str, Any], ct: Path, tmp_path: Path
) -> None:
    other = reoriented(ct, axcodes, tmp_path / "other" / "turned.nii.gz")
    run_here("inference", **inference, input=[str(ct), str(other)], preview=False)
    results = {
        p.name: nib.as_closest_canonical(nib.load(p)) for p in tmp_path.rglob("*_seg.nii.gz")
    }
    first, second = (np.asanyarray(image.dataobj) for image in results.values())
    assert len(results) == 2
    assert len(np.unique(first)) > 1
    assert (first == second).mean() > 0.999


def test_other_formats_give_the_same_labels(
    inference: dict[str, Any], ct: Path, tmp_path: Path
) -> None:
    image = itk.imread(str(ct))
    for name in ("a.nrrd", "b.mha"):
        itk.imwrite(image, str(ct.parent / name))
    run_here("inference", **inference, input=str(ct.parent), preview=False)
    labels = [nib.load(p) for p in sorted((tmp_path / "out").glob("*_seg.nii.gz"))]
    assert len(labels) == 3
    for label in labels[1:]:
        np.testing.assert_allclose(label.affine, labels[0].affine, atol=1e-4)
        np.testing.assert_array_equal(label.dataobj, labels[0].dataobj)


def test_a_dicom_series_gives_the_labels_of_the_same_ct(
    inference: dict[str, Any], ct: Path, tmp_path: Path
) -> None:
    series = write_ct(tmp_path / "dicom" / "1.2.840.7")
    run_here("inference", **inference, input=[str(ct), str(series.parent)])
    name = "1.2.840.7"
    expected, found = (nib.load(tmp_path / "out" / f"{base}_seg.nii.gz") for base in ("ct", name))
    assert found.get_data_dtype() == np.uint8
    np.testing.assert_allclose(found.affine, nib.load(ct).affine, atol=1e-5)
    labels = np.asanyarray(found.dataobj)
    assert len(np.unique(labels)) > 1, "an empty result would prove nothing"
    np.testing.assert_array_equal(labels, expected.dataobj)
    names = json.loads((tmp_path / "out" / f"{name}_seg.json").read_text())
    assert names["source"] == name
    assert {int(i) for i in names["found"]} == set(np.unique(labels)) - {0}
    assert (tmp_path / "out" / f"{name}_preview.png").read_bytes()[:4] == b"\x89PNG"


def test_some_classes_alone_with_their_confidence(
    inference: dict[str, Any], ct: Path, tmp_path: Path
) -> None:
    def labels(out: str, **options: Any) -> Any:
        run_here(
            "inference",
            **{**inference, "output_dir": str(tmp_path / out)},
            input=str(ct),
            preview=False,
            **options,
        )
        return np.asanyarray(nib.load(tmp_path / out / "ct_seg.nii.gz").dataobj)

    everything = labels("all", confidence=True)
    found = np.unique(everything)
    chosen = int(found[-1])
    name = {1: "spleen", 3: "kidney_left", 5: "liver"}[chosen]
    np.testing.assert_array_equal(
        labels("chosen", classes=[name]), np.where(everything == chosen, chosen, 0)
    )
    report = json.loads((tmp_path / "chosen" / "report.json").read_text())
    assert report["settings"]["classes"] == [name]
    assert [*report["scans"]["ct"]["found"]] == [str(chosen)]


def test_one_pass_gives_labels_and_embeddings(
    inference: dict[str, Any], ct: Path, tmp_path: Path
) -> None:
    run_here("inference", **inference, input=str(ct), embed=True, preview=False)
    table = pd.read_parquet(tmp_path / "out" / "embeddings.parquet")
    assert table["kind"].tolist() == ["scan", "patch"]
    assert table["embedding"][0].shape == (64,)
    affine = nib.load(ct).affine
    middle = affine[:3, :3] @ ((np.array(nib.load(ct).shape) - 1) / 2) + affine[:3, 3]
    place = table.loc[1, ["x_mm", "y_mm", "z_mm"]].to_numpy(dtype=float)
    assert np.linalg.norm(place - middle) < 100
    with pytest.raises(RuntimeError) as caught:
        run_here("inference", **{**inference, "overlap": 0.5}, input=str(ct), embed=True)
    assert isinstance(caught.value.__cause__, UserError)
    assert "was made with overlap 0.25, not 0.5" in str(caught.value.__cause__)


def test_linear_inversion_smooths_outlines(
    inference: dict[str, Any], ct: Path, tmp_path: Path
) -> None:
    found = {}
    for inversion in ("nearest", "linear"):
        options = {**inference, "output_dir": str(tmp_path / inversion), "inversion": inversion}
        run_here("inference", **options, spacing=[4.5] * 3, input=str(ct), preview=False)
        label = nib.load(tmp_path / inversion / "ct_seg.nii.gz")
        np.testing.assert_allclose(label.affine, nib.load(ct).affine, atol=1e-5)
        found[inversion] = np.asanyarray(label.dataobj)
    same = (found["nearest"] == found["linear"]).mean()
    assert 0.8 < same < 1


def test_bad_files_are_listed_and_the_others_done(
    inference: dict[str, Any], ct: Path, tmp_path: Path
) -> None:
    (ct.parent / "broken.nii.gz").write_bytes(ct.read_bytes()[:3000])
    save(make_ct()[1], ct.parent / "mask.nii.gz")
    done = run_apart(tmp_path, "inference", **inference, input=str(ct.parent))
    assert done.returncode == 1
    assert "Traceback" not in done.stderr + done.stdout
    assert done.stderr.strip().splitlines()[-1] == (
        "error: 2 of 3 scans failed, as listed above; 1 are done"
    )
    failed = [line for line in done.stdout.splitlines() if line.startswith("failed: ")]
    assert len(failed) == 2
    assert "cannot be read" in failed[0]
    assert "label map or mask" in failed[1]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "ct_preview.png",
        "ct_seg.json",
        "ct_seg.nii.gz",
        "report.json",
    ]


def test_low_res_and_group_stack_on_inference(
    inference: dict[str, Any], ct: Path, tmp_path: Path
) -> None:
    for key in ("class_ids", "network_def__out_channels"):
        inference.pop(key)
    options = {"init_filters": 4, "blocks_down": (1, 1, 1, 1, 1), "dsdepth": 2, "in_channels": 1}
    torch.save(SegResNetDS(**options, out_channels=25).state_dict(), tmp_path / "model.pt")
    run_here(
        "inference",
        "group",
        "low_res",
        **inference,
        input=str(ct),
        group="vertebrae",
        preview=False,
    )
    labels = np.asanyarray(nib.load(tmp_path / "out" / "ct_seg.nii.gz").dataobj)
    assert labels.max() >= 27, "channels are mapped back to v2 ids, vertebrae are 27 to 50"
    assert set(np.unique(labels)) <= {0, *range(27, 51)}


def test_missing_weights_end_in_one_line(
    inference: dict[str, Any], ct: Path, tmp_path: Path
) -> None:
    inference["checkpoint"] = str(tmp_path / "nowhere.pt")
    done = run_apart(tmp_path, "inference", **inference, input=str(ct))
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "nowhere.pt does not exist" in done.stderr.strip().splitlines()[-1]


def test_dicom_segmentation_of_a_series(inference: dict[str, Any], tmp_path: Path) -> None:
    highdicom = pytest.importorskip(
        "highdicom", reason="needs the extra dicom-seg: pip install 'ct-fm-bundles[dicom-seg]'"
    )
    series = write_ct(tmp_path / "dicom" / "series")
    options = {**inference, "preview": False, "dicom_seg": True}
    run_here("inference", **options, input=str(series))
    labels = np.asanyarray(nib.load(tmp_path / "out" / "series_seg.nii.gz").dataobj)
    found = highdicom.seg.segread(tmp_path / "out" / "series_seg.dcm")
    voxels = found.get_volume(combine_segments=True).array
    assert sorted(np.bincount(voxels.ravel())[1:]) == sorted(
        n for n in np.bincount(labels.ravel())[1:] if n
    )


def test_dicom_segmentation_needs_a_series(
    inference: dict[str, Any], ct: Path, tmp_path: Path
) -> None:
    with pytest.raises(RuntimeError) as caught:
        run_here("inference", **inference, input=str(ct), dicom_seg=True)
    assert isinstance(caught.value.__cause__, UserError)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert "no DICOM series" in report["scans"][str(ct)]["failed"]
