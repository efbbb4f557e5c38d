"""What a series' description says about it, where it says anything; free text of many hospitals.

Only plain statements count: a number with its unit, or in a place that a scanner's or a trial's
template gives it. What is not understood is not known, and left to the check of the headers.
"""

from __future__ import annotations

import re

__all__ = ["described_as_localizer", "described_thickness"]

_NUMBER = r"\d+(?:\.\d+)?"
_THICKNESS = (
    # "SliceTh-0.8_SliceInc-0.4_ReconFilter-C"
    re.compile(rf"SliceTh-({_NUMBER})"),
    # The National Lung Screening Trial: "year,kind,maker,model,kernel,field of view,mm,kV,…"
    re.compile(rf"^\d,[A-Z]+,[A-Z]+,[^,]*,[^,]*,[^,]*,({_NUMBER}),\d+,"),
    # "LUNG 1.25 MM", and "1 25 MM", "2 5mm", where the point was lost
    re.compile(r"(?<![\d.,])(1 25|\d 5|\d+(?:[.,]\d+)?|[.,]\d+)\s*mm(?![a-z])", re.IGNORECASE),
    # Siemens' template, thickness before the kernel: "Thorax  1.0  B70f"
    re.compile(r"(?<![^\s_])(\d+\.\d+)\s+[A-Z]{1,2}\d\d[a-z]?(?=[ _]|$)"),
)
_LOCALIZER = re.compile(r"locali[sz]er|scout|topogram|surview|scanogram", re.IGNORECASE)
#: Trials write this for a thickness that nobody noted; no slice is thicker than 50 mm either.
_THICKEST = 50.0


def described_thickness(description: str) -> float | None:
    """Slice thickness in mm that a description states; None: it states none.

    >>> described_thickness("2,OPA,GE,LSQX,STANDARD,360,2.5,120,64,0.1,1.5")
    2.5
    >>> described_thickness("Recon 2: LIVER 3 PHASE") is None
    True
    """
    for pattern in _THICKNESS:
        found = pattern.search(description)
        if found:
            value = float(re.sub("[ ,]", ".", found[1]))
            return value if value <= _THICKEST else None
    return None


def described_as_localizer(description: str) -> bool:
    """Whether a description names a localizer, by one of the makers' words."""
    return _LOCALIZER.search(description) is not None
