"""What descriptions and kernels of head CTs say: contrast agent, bone kernels, pictures.

Free text of many hospitals, in the words that CQ500's series have ("CT PLAIN THIN", "CT POST
CONTRAST-2", "CT 4cc sec 150cc D3D on") and in those of the makers' templates.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

__all__ = ["says_contrast", "says_picture", "says_sharp"]

_PLAIN = re.compile(
    r"plain|non[\s_-]*(contrast|enhanced)|unenhanced|without|w/o|\bno[\s_-]contrast|\bpre\b"
    r"|\bn[ce]ct\b|\bwo\b",
    re.IGNORECASE,
)
_CONTRAST = re.compile(
    r"contrast|enhanced|\bcect\b|\bc\+|\bpost\b|angio|\bct[avp]\b|venogra|perfusion|\biv\b"
    r"|\d\s*cc\b|^ct\s+c\b|mmc\b",
    re.IGNORECASE,
)
_NO_AGENT = re.compile(r"\s*(none|no|n|0|without|no contrast)?\s*", re.IGNORECASE)
_SHARP_WORDS = re.compile(r"\bbone|sharp|\bedge|\blung|\bhi[\s_-]*res|\bhrct\b", re.IGNORECASE)
_PICTURE = re.compile(r"\b(mip|minip|vrt?|3d\s*rend\w*|movie)\b", re.IGNORECASE)
#: Kernels that show bone: GE's names, Toshiba's and Canon's FC30, 50 and 80, Philips' letters.
_SHARP_KERNELS = re.compile(r"(bone|edge|lung|ultra).*|fc[358]\d.*|[del]|y[c-e]", re.IGNORECASE)
#: Siemens: letters, a number for sharpness, letters: H31s is soft, H60s and Hr59d show bone.
_SIEMENS = re.compile(r"[A-Z][a-z]?(\d\d)[a-z]?(?![A-Za-z0-9])")
_SIEMENS_SHARP = 55


def says_contrast(texts: Iterable[str], agent: str = "") -> str | None:
    """The words that speak of a contrast agent; None: none do.

    >>> says_contrast(["CT PRE CONTRAST 5MM STD"]) is None
    True
    >>> says_contrast(["CT POST CONTRAST-2"])
    'CT POST CONTRAST-2'

    Args:
        texts: descriptions, and names of folders.
        agent: ContrastBolusAgent.
    """
    if not _NO_AGENT.fullmatch(agent):
        return f"ContrastBolusAgent {agent}"
    return next((t for t in texts if _CONTRAST.search(t) and not _PLAIN.search(t)), None)


def says_sharp(texts: Iterable[str], kernel: str = "") -> bool:
    """Whether a kernel, or without a known one a description, is that for bone.

    >>> says_sharp([], "H60s"), says_sharp([], "H31s"), says_sharp(["Head 1.0 bone"], "")
    (True, False, True)
    """
    siemens = _SIEMENS.match(kernel.strip())
    if siemens:
        return int(siemens[1]) >= _SIEMENS_SHARP
    if _SHARP_KERNELS.fullmatch(kernel.strip()):
        return True
    return any(_SHARP_WORDS.search(text) for text in texts)


def says_picture(texts: Iterable[str]) -> str | None:
    """The words that speak of a picture made of a volume, such as a MIP; None: none do."""
    return next((text for text in texts if _PICTURE.search(text)), None)
