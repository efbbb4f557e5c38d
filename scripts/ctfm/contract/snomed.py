"""SNOMED CT codes of the structures that are segmented, for DICOM.

The codes are those that TotalSegmentator publishes with its classes, but for two that say more
than is known (https://github.com/wasserth/TotalSegmentator/pull/612): that of the right subclavian
artery for both sides, and that of the entire gluteus maximus, of which a scan may hold a part.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["CODES", "Code", "Coded", "coded"]


@dataclass(frozen=True)
class Code:
    """A SNOMED CT concept: its number and its name."""

    value: str
    meaning: str


@dataclass(frozen=True)
class Coded:
    """What a segment shows.

    Attributes:
        category: anatomy, or something ill in it.
        kind: the structure.
        side: left or right, if it is one of a pair; of `region`, where there is one.
        region: where it is, if `kind` does not say so.
    """

    category: Code
    kind: Code
    side: Code | None = None
    region: Code | None = None


ANATOMY = Code("123037004", "Anatomical Structure")
ALTERED = Code("49755003", "Morphologically Altered Structure")
NEOPLASM = Code("108369006", "Neoplasm")
BODY_STRUCTURE = Code("91723000", "Anatomical structure")
KIDNEY = Code("64033007", "Kidney")
LEFT, RIGHT = Code("7771000", "Left"), Code("24028007", "Right")

#: Structures without their side, by the names of `ctfm.contract.classes`.
CODES: dict[str, Code] = {
    name: Code(value, meaning)
    for name, value, meaning in (
        ("spleen", "78961009", "Spleen"),
        ("kidney", KIDNEY.value, KIDNEY.meaning),
        ("gallbladder", "28231008", "Gallbladder"),
        ("liver", "10200004", "Liver"),
        ("stomach", "69695003", "Stomach"),
        ("pancreas", "15776009", "Pancreas"),
        ("adrenal_gland", "23451007", "Adrenal gland"),
        ("lung_upper_lobe", "45653009", "Upper lobe of lung"),
        ("lung_middle_lobe_right", "72481006", "Middle lobe of right lung"),
        ("lung_lower_lobe", "90572001", "Lower lobe of lung"),
        ("esophagus", "32849002", "Esophagus"),
        ("trachea", "44567001", "Trachea"),
        ("thyroid_gland", "69748006", "Thyroid gland"),
        ("small_bowel", "30315005", "Small Intestine"),
        ("duodenum", "38848004", "Duodenum"),
        ("colon", "71854001", "Colon"),
        ("urinary_bladder", "89837001", "Urinary bladder"),
        ("prostate", "41216001", "Prostate"),
        ("kidney_cyst", "367643001", "Cyst"),
        ("sacrum", "54735007", "Sacrum"),
        ("vertebrae_S1", "65985001", "S1 vertebra"),
        ("vertebrae_L5", "49668003", "L5 vertebra"),
        ("vertebrae_L4", "11994002", "L4 vertebra"),
        ("vertebrae_L3", "36470004", "L3 vertebra"),
        ("vertebrae_L2", "14293000", "L2 vertebra"),
        ("vertebrae_L1", "66794005", "L1 vertebra"),
        ("vertebrae_T12", "23215003", "T12 vertebra"),
        ("vertebrae_T11", "12989004", "T11 vertebra"),
        ("vertebrae_T10", "7610001", "T10 vertebra"),
        ("vertebrae_T9", "82687006", "T9 vertebra"),
        ("vertebrae_T8", "11068009", "T8 vertebra"),
        ("vertebrae_T7", "62487009", "T7 vertebra"),
        ("vertebrae_T6", "45296009", "T6 vertebra"),
        ("vertebrae_T5", "56401006", "T5 vertebra"),
        ("vertebrae_T4", "73071006", "T4 vertebra"),
        ("vertebrae_T3", "1626008", "T3 vertebra"),
        ("vertebrae_T2", "53733008", "T2 vertebra"),
        ("vertebrae_T1", "64864005", "T1 vertebra"),
        ("vertebrae_C7", "87391001", "C7 vertebra"),
        ("vertebrae_C6", "36054005", "C6 vertebra"),
        ("vertebrae_C5", "36978003", "C5 vertebra"),
        ("vertebrae_C4", "5329002", "C4 vertebra"),
        ("vertebrae_C3", "113205007", "C3 vertebra"),
        ("vertebrae_C2", "39976000", "C2 vertebra"),
        ("vertebrae_C1", "14806007", "C1 vertebra"),
        ("heart", "80891009", "Heart"),
        ("aorta", "15825003", "Aorta"),
        ("pulmonary_vein", "122972007", "Pulmonary vein"),
        ("brachiocephalic_trunk", "12691009", "Brachiocephalic artery"),
        ("subclavian_artery", "36765005", "Subclavian artery"),
        ("common_carotid_artery", "32062004", "Common carotid artery"),
        ("brachiocephalic_vein", "8887007", "Brachiocephalic vein"),
        ("atrial_appendage", "68786006", "Auricular appendage"),
        ("superior_vena_cava", "48345005", "Superior vena cava"),
        ("inferior_vena_cava", "64131007", "Inferior vena cava"),
        ("portal_vein_and_splenic_vein", "110765007", "Portal vein and splenic vein"),
        ("iliac_artery", "73634005", "Common iliac artery"),
        ("iliac_vena", "46027005", "Common iliac vein"),
        ("humerus", "85050009", "Humerus"),
        ("scapula", "79601000", "Scapula"),
        ("clavicula", "51299004", "Clavicle"),
        ("femur", "71341001", "Femur"),
        ("hip", "29836001", "Hip"),
        ("spinal_cord", "2748008", "Spinal cord"),
        ("gluteus_maximus", "206007", "Gluteus maximus muscle"),
        ("gluteus_medius", "78333006", "Gluteus medius muscle"),
        ("gluteus_minimus", "75297007", "Gluteus minimus muscle"),
        ("autochthon", "244849004", "Deep muscle of back"),
        ("iliopsoas", "68455001", "Iliopsoas muscle"),
        ("brain", "12738006", "Brain"),
        ("skull", "89546000", "Skull"),
        ("rib_1", "48535007", "First rib"),
        ("rib_2", "78247007", "Second rib"),
        ("rib_3", "25888004", "Third rib"),
        ("rib_4", "25523003", "Fourth rib"),
        ("rib_5", "15339008", "Fifth rib"),
        ("rib_6", "59558009", "Sixth rib"),
        ("rib_7", "24915002", "Seventh rib"),
        ("rib_8", "5953002", "Eighth rib"),
        ("rib_9", "22565002", "Ninth rib"),
        ("rib_10", "77644006", "Tenth rib"),
        ("rib_11", "58830002", "Eleventh rib"),
        ("rib_12", "43993008", "Twelfth rib"),
        ("sternum", "56873002", "Sternum"),
        ("costal_cartilages", "50016007", "Costal cartilage"),
        ("lung", "39607008", "Lung"),
    )
}
#: What a name of other tasks has to contain to be a neoplasm.
TUMOR_WORDS = ("cancer", "tumor", "tumour", "lesion", "neoplasm", "metastas")


def coded(name: str) -> Coded:
    """The codes of a class, by its name; a structure that is not known is just that.

    Example:
        >>> coded("rib_left_3").kind.meaning, coded("rib_left_3").side.meaning
        ('Third rib', 'Left')
    """
    words = name.split("_")
    sides = [side for word, side in (("left", LEFT), ("right", RIGHT)) if word in words]
    base = "_".join(word for word in words if word not in ("left", "right"))
    if name in CODES:
        return Coded(ANATOMY, CODES[name])
    if any(word in name.lower() for word in TUMOR_WORDS):
        return Coded(ALTERED, NEOPLASM)
    if base not in CODES:
        return Coded(ANATOMY, BODY_STRUCTURE)
    side = sides[0] if sides else None
    if base == "kidney_cyst":
        return Coded(ALTERED, CODES[base], side, KIDNEY)
    return Coded(ANATOMY, CODES[base], side)
