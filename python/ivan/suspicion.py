"""What should make a user doubt a result: inputs unlike the training images, values that were cut off."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ivan.data.profile import Profile

CLIPPED_LEVEL, CLIPPED_SHARE = -0.02, 0.005  # more of it than this share is worth a warning


def read_profiles(run: Path) -> dict[str, list[Profile]]:
    """Modality -> profiles of the training cases, from `normalisation.json`; nothing where it has none."""
    from ivan.data.profile import Profile

    found: dict[str, list[Profile]] = {}
    try:
        content = json.loads((run / "normalisation.json").read_text(encoding="utf-8"))
        for profiles in content["profiles"].values():
            for name, values in profiles.items():
                found.setdefault(name, []).append(Profile.from_json(values))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
    return found


def clipping_lines(case: str, clipped: dict[str, float]) -> list[str]:
    """One line for each modality of a case that lost many negative values."""
    return [
        f"{name} of {case}: {100 * share:.1f} % of the voxels were predicted below {CLIPPED_LEVEL:g} of the "
        "scale and set to 0"
        for name, share in clipped.items()
        if share > CLIPPED_SHARE
    ]
