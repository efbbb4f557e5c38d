import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from ctfm.base.errors import UserError
from ctfm.contract.classes import TOTALSEGMENTATOR_V2
from ctfm.phantoms.drawing import REGIONS, draw_head, draw_torso, save_phantom, write_dataset
from ctfm.phantoms.shapes import Canvas, Part, blob, loft, tube
from ctfm.phantoms.torso import torso_parts

IDS = {name: number for number, name in TOTALSEGMENTATOR_V2.items()}
NOT_IN_TORSO = {"brain", "skull"} | {f"vertebrae_C{i}" for i in range(1, 7)}
TUMOR_HOSTS = ("liver", "kidney_", "spleen", "pancreas", "lung_")


@pytest.fixture(scope="module")
def patient():
    return draw_torso(1, (4.0, 4.0, 4.0))


def volume_ml(phantom, name):
    return (phantom.label == IDS[name]).sum() * abs(np.linalg.det(phantom.affine[:3, :3])) / 1000


def centroid(phantom, name):
    voxels = np.argwhere(phantom.label == IDS[name])
    assert len(voxels), f"{name} is not drawn"
    return nib.affines.apply_affine(phantom.affine, voxels.mean(0))


def drawn_volume_ml(shape, spacing=2.0, half=60):
    count = int(2 * half / spacing)
    affine = np.diag([spacing] * 3 + [1.0])
    affine[:3, 3] = -half + spacing / 2
    canvas = Canvas((count, count, count), affine)
    canvas.paint(Part("liver", 60, shape))
    assert (canvas.hu[canvas.label == IDS["liver"]] == 60).all()
    return (canvas.label == IDS["liver"]).sum() * spacing**3 / 1000


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        (blob((3, -4, 5), (40, 30, 20)), 4 / 3 * np.pi * 40 * 30 * 20),
        (blob((0, 0, 0), (40, 30, 20), turn=(20, 30, 40)), 4 / 3 * np.pi * 40 * 30 * 20),
        (blob((0, 0, 0), (30, 30, 20), power=60), 60 * 60 * 40),
        (tube("0 0 -30 15, 0 0 30 15"), np.pi * 15**2 * 60 + 4 / 3 * np.pi * 15**3),
        (loft("-40 5 0 30 20, 40 -5 0 30 20", power=2), np.pi * 30 * 20 * 80),
        (blob((0, 0, 0), (40, 30, 20)).cut((0, 0, 0), (1, 2, 3)), 2 / 3 * np.pi * 40 * 30 * 20),
        (blob((9, 0, 0), (20, 20, 20)).grow(5), 4 / 3 * np.pi * 25**3),
        (blob((9, 0, 0), (20, 20, 20)).moved((0, 9, 0), (2, 1, 1)), 8 / 3 * np.pi * 20**3),
    ],
    ids=["ellipsoid", "turned", "box", "capsule", "cylinder", "half", "grown", "scaled"],
)
def test_shape_has_the_volume_of_its_formula(shape, expected):
    assert drawn_volume_ml(shape) == pytest.approx(expected / 1000, rel=0.03)


def test_mirrored_shape_is_as_deep_on_the_other_side():
    shape = tube("10 5 -20 8, 40 -10 20 12") | blob((30, 0, 0), (9, 8, 7))
    points = np.random.default_rng(0).uniform(-50, 50, (3, 9, 8, 7)).astype(np.float32)
    mirrored = points * np.array([-1, 1, 1], np.float32)[:, None, None, None]
    np.testing.assert_allclose(shape.mirrored().depth(mirrored), shape.depth(points), atol=1e-4)


def test_points_of_a_shape_lie_in_its_box():
    shape = (tube("10 5 -20 8, 40 -10 20 12") | blob((30, 0, 0), (9, 8, 30), 3, (9, 40, 70))).grow(
        2
    )
    points = np.random.default_rng(0).uniform(-80, 80, (3, 30, 30, 30)).astype(np.float32)
    inside = points[:, shape.depth(points) > 0]
    assert inside.shape[1] > 50
    assert (inside.min(1) >= shape.box[0]).all()
    assert (inside.max(1) <= shape.box[1]).all()


def test_torso_draws_every_class_it_names(patient):
    drawn = {TOTALSEGMENTATOR_V2[i] for i in np.unique(patient.label) if i}
    assert drawn >= set(IDS) - NOT_IN_TORSO
    assert len(set(IDS) - NOT_IN_TORSO) == 109
    assert patient.image.dtype == np.int16
    assert patient.label.dtype == patient.lesion.dtype == np.uint8
    assert patient.image.shape == patient.label.shape == patient.lesion.shape
    assert not patient.lesion.any()


def test_same_seed_same_phantom():
    again = draw_torso(1, (9, 9, 9), tumors=2), draw_torso(1, (9, 9, 9), tumors=2)
    for one, two in zip(vars(again[0]).values(), vars(again[1]).values(), strict=True):
        np.testing.assert_array_equal(one, two)


def test_other_seed_other_patient():
    one, two = (draw_torso(seed, (9, 9, 9)) for seed in (1, 2))
    assert (one.label != two.label).mean() > 0.05
    assert abs(volume_ml(one, "liver") - volume_ml(two, "liver")) > 5


@pytest.mark.parametrize(
    ("right", "left"),
    [
        ("liver", "spleen"),
        ("liver", "stomach"),
        ("gallbladder", "heart"),
        ("inferior_vena_cava", "aorta"),
        ("superior_vena_cava", "atrial_appendage_left"),
        *(
            (name, name.replace("right", "left"))
            for name in IDS
            if "_right" in name and "middle" not in name
        ),
    ],
)
def test_right_is_right(patient, right, left):
    assert centroid(patient, right)[0] > centroid(patient, left)[0] + 15


@pytest.mark.parametrize(
    ("above", "below"),
    [
        ("heart", "liver"),
        ("liver", "urinary_bladder"),
        ("thyroid_gland", "aorta"),
        ("lung_upper_lobe_left", "lung_lower_lobe_left"),
        ("lung_upper_lobe_right", "lung_middle_lobe_right"),
        ("spleen", "kidney_left"),
        ("hip_left", "femur_left"),
    ],
)
def test_above_is_above(patient, above, below):
    assert centroid(patient, above)[2] > centroid(patient, below)[2]


@pytest.mark.parametrize(
    ("front", "behind"),
    [
        ("sternum", "heart"),
        ("trachea", "esophagus"),
        ("liver", "kidney_right"),
        ("urinary_bladder", "sacrum"),
        ("lung_middle_lobe_right", "lung_lower_lobe_right"),
        ("heart", "vertebrae_T8"),
        ("vertebrae_T6", "autochthon_left"),
    ],
)
def test_front_is_in_front(patient, front, behind):
    assert centroid(patient, front)[1] > centroid(patient, behind)[1]


def test_vertebrae_and_ribs_are_in_order(patient):
    spine = [f"T{i}" for i in range(1, 13)] + [f"L{i}" for i in range(1, 6)] + ["S1"]
    heights = [centroid(patient, f"vertebrae_{name}")[2] for name in spine]
    assert (np.diff(heights) < -10).all()
    for side in ("left", "right"):
        ribs = [centroid(patient, f"rib_{side}_{i}")[2] for i in range(1, 13)]
        assert (np.diff(ribs) < -5).all()


def test_labels_lie_inside_the_body(patient):
    body = np.stack(
        [ndimage.binary_fill_holes(s) for s in np.moveaxis(patient.image > -300, 2, 0)], 2
    )
    assert not ((patient.label > 0) & ~body).any()
    assert 0.2 < body.mean() < 0.7
    assert patient.image[~body].max() <= -200


def test_hu_of_uniform_classes_are_those_of_the_table(patient):
    parts = torso_parts(np.random.default_rng(0))
    uniform = {p.name: p.hu for p in parts if p.name and p.core is None}
    checked = 0
    for name, hu in uniform.items():
        inner = ndimage.binary_erosion(patient.label == IDS[name])
        if inner.sum() >= 20:
            checked += 1
            assert np.median(patient.image[inner]) == pytest.approx(hu, abs=8), name
    assert checked >= 15


def test_hollow_organs_and_bones_have_a_rind(patient):
    hu = {
        name: patient.image[patient.label == IDS[name]]
        for name in ("stomach", "colon", "urinary_bladder", "vertebrae_L3", "femur_left")
    }
    assert min(np.percentile(hu["stomach"], 2), np.percentile(hu["colon"], 2)) < -800
    assert np.median(hu["urinary_bladder"]) == pytest.approx(8, abs=8)
    for bone in ("vertebrae_L3", "femur_left"):
        assert 150 < np.median(hu[bone]) < 450
        assert np.percentile(hu[bone], 98) > 500


def test_noise_has_the_standard_deviation_asked_for():
    clean, noisy = (draw_torso(0, (10, 10, 10), noise_hu=sigma) for sigma in (0.0, 20.0))
    added = (noisy.image.astype(float) - clean.image)[clean.image > -900]
    assert added.std() == pytest.approx(20, rel=0.05)
    assert abs(added.mean()) < 1


@pytest.mark.parametrize(
    ("spacing", "axcodes", "degrees"),
    [((5, 5, 5), "LPS", 0), ((7, 5, 5), "SPL", 12), ((5, 5, 6), "AIR", -25)],
)
def test_every_grid_shows_the_same_anatomy(patient, spacing, axcodes, degrees):
    other = draw_torso(1, spacing, axcodes, oblique_degrees=degrees)
    assert "".join(nib.aff2axcodes(other.affine)) == axcodes
    np.testing.assert_allclose(nib.affines.voxel_sizes(other.affine), spacing, rtol=1e-6)
    for name in ("liver", "spleen", "kidney_left", "heart", "stomach", "lung_lower_lobe_right"):
        assert volume_ml(other, name) == pytest.approx(volume_ml(patient, name), rel=0.03), name
        np.testing.assert_allclose(centroid(other, name), centroid(patient, name), atol=1.5)


def test_region_is_a_window_on_the_same_patient(patient):
    abdomen = draw_torso(1, (4, 4, 4), region="abdomen")
    assert abdomen.label.shape[2] == (REGIONS["abdomen"][1] - REGIONS["abdomen"][0]) / 4
    for name in ("liver", "pancreas", "kidney_right"):
        assert volume_ml(abdomen, name) == pytest.approx(volume_ml(patient, name), rel=0.06)
    assert not (abdomen.label == IDS["urinary_bladder"]).any()


@pytest.mark.parametrize("seed", [0, 1])
def test_tumors_lie_in_their_organs(seed):
    phantom = draw_torso(seed, (5, 5, 5), tumors=4)
    pieces, count = ndimage.label(phantom.lesion, np.ones((3, 3, 3)))
    assert 2 <= count <= 4
    for piece in range(1, count + 1):
        names = {TOTALSEGMENTATOR_V2[i] for i in np.unique(phantom.label[pieces == piece])}
        assert all(name.startswith(TUMOR_HOSTS) for name in names)


def test_contrast_medium_lights_up_blood_and_organs_but_not_muscle():
    plain, lit = (draw_torso(1, (6, 6, 6), region="abdomen", contrast=c) for c in (False, True))
    np.testing.assert_array_equal(plain.label, lit.label)
    for name, more in (("aorta", 90), ("liver", 40), ("kidney_left", 100), ("autochthon_left", 0)):
        inner = ndimage.binary_erosion(plain.label == IDS[name])
        gain = np.median(lit.image[inner]) - np.median(plain.image[inner])
        assert (gain == 0) if more == 0 else (gain >= more), name


def test_table_is_drawn_below_the_patient_and_can_be_left_out():
    with_table, without = (
        draw_torso(0, (8, 8, 8), table=table, noise_hu=0) for table in (True, False)
    )
    changed = np.argwhere(with_table.image != without.image)
    y = nib.affines.apply_affine(without.affine, changed)[:, 1]
    assert len(y)
    assert y.max() < -130
    np.testing.assert_array_equal(with_table.label, without.label)


def test_head_has_brain_in_skull_and_a_neck():
    phantom = draw_head(0, (4, 4, 4))
    drawn = {TOTALSEGMENTATOR_V2[i] for i in np.unique(phantom.label) if i}
    assert drawn >= {"brain", "skull", "spinal_cord", "vertebrae_C1", "vertebrae_C2"}
    assert 900 < volume_ml(phantom, "brain") < 1700
    assert np.median(phantom.image[phantom.label == IDS["brain"]]) == pytest.approx(34, abs=8)
    assert not phantom.lesion.any()
    assert centroid(phantom, "brain")[2] > centroid(phantom, "vertebrae_C1")[2] + 50
    brain, skull = (np.argwhere(phantom.label == IDS[name]) for name in ("brain", "skull"))
    assert (skull.max(0) > brain.max(0)).all()
    assert (skull.min(0) < brain.min(0))[:2].all()


def test_bleeds_are_bright_and_inside_the_skull():
    kinds = set()
    for seed in range(5):
        phantom = draw_head(seed, (4, 4, 4), bleed=True)
        lesion = phantom.lesion > 0
        assert lesion.sum() * 0.064 > 1
        assert 50 < np.median(phantom.image[lesion]) < 75
        names = np.unique(phantom.label[lesion])
        assert set(names) <= {0, IDS["brain"]}
        kinds.add("intracerebral" if IDS["brain"] in names else "subdural")
        skull = np.argwhere(phantom.label == IDS["skull"])
        where = np.argwhere(lesion)
        assert (where.min(0) > skull.min(0)).all()
        assert (where.max(0) < skull.max(0)).all()
    assert kinds == {"intracerebral", "subdural"}


def test_head_is_deterministic_and_turns_with_its_grid():
    one, two = draw_head(3, (5, 5, 5), bleed=True), draw_head(3, (5, 5, 5), bleed=True)
    np.testing.assert_array_equal(one.image, two.image)
    turned = draw_head(3, (5, 5, 5), "SPL", oblique_degrees=10, bleed=True)
    assert "".join(nib.aff2axcodes(turned.affine)) == "SPL"
    assert volume_ml(turned, "brain") == pytest.approx(volume_ml(one, "brain"), rel=0.03)


def test_saved_phantom_comes_back(tmp_path):
    phantom = draw_torso(0, (12, 10, 11), "LPS", oblique_degrees=7, tumors=1)
    paths = [tmp_path / "new" / f"{name}.nii.gz" for name in ("image", "label", "lesion")]
    save_phantom(phantom, *paths)
    for path, array in zip(paths, (phantom.image, phantom.label, phantom.lesion), strict=True):
        read = nib.load(path)
        assert read.get_data_dtype() == array.dtype
        np.testing.assert_array_equal(np.asarray(read.dataobj), array)
        np.testing.assert_allclose(read.get_sform(), phantom.affine, atol=1e-4)
        np.testing.assert_allclose(read.get_qform(), phantom.affine, atol=1e-3)
        assert int(read.header["sform_code"]) == int(read.header["qform_code"]) == 1
        assert read.header.get_xyzt_units()[0] == "mm"
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == sorted(p.name for p in paths)


def test_dataset_is_laid_out_as_the_release(tmp_path):
    root = write_dataset(tmp_path / "set", subjects=3, seed=5, spacing=(20, 20, 20))
    header, *rows = (root / "meta.csv").read_text().splitlines()
    assert header == "image_id;age;gender;institute;study_type;split"
    assert [row.split(";")[0] for row in rows] == ["s0000", "s0001", "s0002"]
    assert [row.split(";")[-1] for row in rows] == ["train", "val", "test"]
    masks = sorted((root / "s0001" / "segmentations").iterdir())
    assert [m.name for m in masks] == sorted(f"{name}.nii.gz" for name in IDS)
    expected = draw_torso(6, (20, 20, 20))
    ct = nib.load(root / "s0001" / "ct.nii.gz")
    np.testing.assert_array_equal(np.asarray(ct.dataobj), expected.image)
    for name in ("liver", "lung_upper_lobe_left", "brain"):
        mask = nib.load(root / "s0001" / "segmentations" / f"{name}.nii.gz")
        assert mask.get_data_dtype() == np.uint8
        np.testing.assert_array_equal(np.asarray(mask.dataobj), expected.label == IDS[name])
        np.testing.assert_allclose(mask.affine, ct.affine)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"axcodes": "RAX"}, "RAX"),
        ({"axcodes": "RLS"}, "RLS"),
        ({"axcodes": "RA"}, "axcodes"),
        ({"spacing": (3, 0, 3)}, "spacing"),
        ({"spacing": (3, -1, 3)}, "spacing"),
        ({"spacing": (3, float("nan"), 3)}, "spacing"),
        ({"spacing": (3, 3)}, "spacing"),
        ({"region": "knee"}, "knee"),
        ({"oblique_degrees": 60}, "60"),
        ({"noise_hu": -1}, "noise_hu"),
        ({"tumors": -1}, "tumors"),
        ({"seed": -1}, "seed"),
        ({"tumors": 1, "region": "pelvis"}, "room"),
    ],
)
def test_bad_arguments_are_user_errors(arguments, words):
    with pytest.raises(UserError, match=words):
        draw_torso(**{"spacing": (14, 14, 14), **arguments})


def test_bad_head_and_dataset_arguments_are_user_errors(tmp_path):
    with pytest.raises(UserError, match="axcodes"):
        draw_head(axcodes="XYZ")
    with pytest.raises(UserError, match="at least 3"):
        write_dataset(tmp_path, subjects=2)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        save_phantom(draw_torso(0, (20, 20, 20)), tmp_path / "file" / "ct.nii.gz")
    with pytest.raises(UserError, match="no NIfTI file name"):
        save_phantom(draw_torso(0, (20, 20, 20)), tmp_path / "ct.txt")
