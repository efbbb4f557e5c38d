"""The classes of TotalSegmentator, and groups of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from ctfm.base.errors import UserError

__all__ = [
    "CLASS_GROUPS",
    "TOTALSEGMENTATOR_V1",
    "TOTALSEGMENTATOR_V2",
    "ClassGroup",
    "class_group",
    "class_name",
    "network_channels",
    "v2_ids",
]


def _numbered(names: str) -> dict[int, str]:
    return dict(enumerate(names.split(), start=1))


def _both_sides(names: str, sides: tuple[str, str] = ("left", "right")) -> str:
    return " ".join(f"{name}_{side}" for name in names.split() for side in sides)


def _ribs() -> str:
    return " ".join(f"rib_{side}_{i}" for side in ("left", "right") for i in range(1, 13))


_VERTEBRAE = " ".join(
    f"vertebrae_{part}{i}"
    for part, count in (("L", 5), ("T", 12), ("C", 7))
    for i in range(count, 0, -1)
)
_LUNG_LOBES = (
    "lung_upper_lobe_left lung_lower_lobe_left "
    "lung_upper_lobe_right lung_middle_lobe_right lung_lower_lobe_right"
)
_GLUTEI = _both_sides("gluteus_maximus gluteus_medius gluteus_minimus autochthon iliopsoas")
_LIMBS = _both_sides("humerus scapula clavicula femur hip")
_ILIAC = _both_sides("iliac_artery iliac_vena")

#: TotalSegmentator v2 (117 classes): id -> name, as in the data set's release and its tool.
TOTALSEGMENTATOR_V2: dict[int, str] = _numbered(
    "spleen kidney_right kidney_left gallbladder liver stomach pancreas "
    f"adrenal_gland_right adrenal_gland_left {_LUNG_LOBES} "
    "esophagus trachea thyroid_gland small_bowel duodenum colon urinary_bladder prostate "
    f"kidney_cyst_left kidney_cyst_right sacrum vertebrae_S1 {_VERTEBRAE} "
    "heart aorta pulmonary_vein brachiocephalic_trunk "
    "subclavian_artery_right subclavian_artery_left "
    "common_carotid_artery_right common_carotid_artery_left "
    "brachiocephalic_vein_left brachiocephalic_vein_right atrial_appendage_left "
    f"superior_vena_cava inferior_vena_cava portal_vein_and_splenic_vein {_ILIAC} "
    f"{_LIMBS} spinal_cord {_GLUTEI} brain skull {_ribs()} sternum costal_cartilages"
)

#: TotalSegmentator v1 (104 classes): id -> name. The published class groups use these ids.
TOTALSEGMENTATOR_V1: dict[int, str] = _numbered(
    "spleen kidney_right kidney_left gallbladder liver stomach aorta inferior_vena_cava "
    "portal_vein_and_splenic_vein pancreas adrenal_gland_right adrenal_gland_left "
    f"{_LUNG_LOBES} {_VERTEBRAE} esophagus trachea heart_myocardium heart_atrium_left "
    "heart_ventricle_left heart_atrium_right heart_ventricle_right pulmonary_artery brain "
    f"{_ILIAC} small_bowel duodenum colon {_ribs()} {_LIMBS} sacrum face {_GLUTEI} urinary_bladder"
)

_TABLES = {"v1": TOTALSEGMENTATOR_V1, "v2": TOTALSEGMENTATOR_V2}


@dataclass(frozen=True)
class ClassGroup:
    """Classes that are trained and reported together.

    Attributes:
        name: what the `group` knob of the whole-body bundle takes.
        release: TotalSegmentator release that `ids` belong to, "v1" or "v2".
        ids: class ids in that release, ascending, background not included.
    """

    name: str
    release: str
    ids: tuple[int, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Class names in the order of `ids`."""
        return tuple(_TABLES[self.release][i] for i in self.ids)

    @property
    def v2_ids(self) -> tuple[int, ...]:
        """The ids in release v2 of those classes that v2 still has, ascending.

        v2 dropped the four heart chambers, the myocardium, the pulmonary artery and the face;
        all other v1 classes exist there by the same name.
        """
        wanted = set(self.names)
        return tuple(i for i, name in TOTALSEGMENTATOR_V2.items() if name in wanted)

    @property
    def missing_in_v2(self) -> tuple[str, ...]:
        """Names of the classes that release v2 does not have."""
        return tuple(name for name in self.names if name not in TOTALSEGMENTATOR_V2.values())


def _span(*spans: tuple[int, int]) -> tuple[int, ...]:
    return tuple(sorted(i for first, last in spans for i in range(first, last + 1)))


CLASS_GROUPS: dict[str, ClassGroup] = {
    group.name: group
    for group in (
        ClassGroup("v2", "v2", _span((1, 117))),
        ClassGroup("v1", "v1", _span((1, 104))),
        ClassGroup("organs", "v1", _span((1, 17))),
        ClassGroup("vertebrae", "v1", _span((18, 41))),
        ClassGroup("cardiac", "v1", _span((42, 57), (93, 93), (104, 104))),
        ClassGroup("muscles", "v1", _span((82, 92), (94, 103))),
        ClassGroup("ribs", "v1", _span((58, 81))),
        # abdominal organs, sacrum and vertebrae S1 to T12, as compared with Merlin
        ClassGroup("merlin", "v2", _span((1, 7), (18, 22), (25, 32))),
    )
}


def class_name(class_id: int) -> str:
    """The name of a TotalSegmentator v2 class; "class 200" where there is none."""
    return TOTALSEGMENTATOR_V2.get(class_id, f"class {class_id}")


def class_group(name: str) -> ClassGroup:
    """The class group of that name.

    Raises:
        UserError: there is no such group.
    """
    try:
        return CLASS_GROUPS[name]
    except KeyError:
        known = ", ".join(CLASS_GROUPS)
        raise UserError(f"no class group is called {name!r}: choose one of {known}") from None


def v2_ids(group: str) -> list[int]:
    """Ids in release v2 of a group's classes: the `_target_` that configs use.

    Raises:
        UserError: there is no such group.
    """
    return list(class_group(group).v2_ids)


def network_channels(
    wanted: str | Sequence[str] | None, class_ids: Sequence[int]
) -> list[int] | None:
    """Channels of a network's output for classes that a user names.

    Args:
        wanted: names of classes or of class groups, in a list or with commas between; None: all.
        class_ids: ids in release v2 of what the network segments; background is its channel 0.

    Returns:
        Channels, ascending; None: all.

    Raises:
        UserError: a class does not exist, or the network does not segment it.
    """
    if wanted is None:
        return None
    channels = {i: channel for channel, i in enumerate(class_ids, start=1)}
    named = {name: (i,) for i, name in TOTALSEGMENTATOR_V2.items()}
    groups = {name: group.v2_ids for name, group in CLASS_GROUPS.items()}
    found: set[int] = set()
    for name in wanted.split(",") if isinstance(wanted, str) else wanted:
        ids = (groups | named).get(str(name).strip())
        if ids is None:
            raise UserError(_unknown(str(name).strip(), [*named, *groups]))
        if not channels.keys() >= {*ids}:
            raise UserError(f"this network does not segment {name}: leave it out of --classes")
        found |= {channels[i] for i in ids}
    return sorted(found)


def _unknown(name: str, known: Sequence[str]) -> str:
    close = get_close_matches(name, known, n=3, cutoff=0.5) or [n for n in known if name in n][:3]
    advice = f"did you mean {' or '.join(close)}?" if close else "see NAME_seg.json for the names"
    return f"no class is called {name!r}: {advice}"
