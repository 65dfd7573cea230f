"""Which modality a series is: descriptions of many scanners and languages, folders, echoes, objects."""

from __future__ import annotations

from pathlib import Path

import pytest
from dicom_phantom import write_series

from ivan.prepare import prepare
from ivan.prepare.contrast import modality_of
from ivan.prepare.dicom import read_headers
from ivan.prepare.dicom_files import dicom_files
from ivan.prepare.find import find_raw
from ivan.prepare.series import Stack, sort_series
from ivan.prepare.words import contrast_agent, weighting

TINY = {"shape": (8, 8, 3), "spacing": (20.0, 20.0, 40.0)}

NAMES: dict[str | None, str] = {
    "T1": (
        "T1_images|T1W WO contrast|"
        "T1 SPACE|Ax T1 FLAIR|T1 FLAIR|Sag T1W_FLAIR|AX T1 PRE GAD|T1 pre gd|t1_headcoil|"
        "T1W_3D_TFE|sT1W_3D_TFE|t1_mprage_sag_p2_iso|AXT1|3DT1|T1 VIBE DIXON|FSPGR|IR-SPGR|"
        "MP-RAGE|3D TFE|T1 w/o contrast|T1 wo contrast|T1 without contrast|T1 ohne KM|"
        "t1_se_tra_vor_KM|T1 sans gado|T1 sin contraste|T1 non-contrast|T1 precontrast|T1 nativ|"
        "T1 posterior fossa|T1 post-op|t1_tse_tra_320|T1 w/wo contrast|T1_reg_FLAIR|T1 to T2|"
        "t1_mp2rage_sag_UNI_Images|NOT DIAGNOSTIC T1|T1 MTC"
    ),
    "T1c": (
        "MPRAGE GD|mprage_post|FSPGR +C|BRAVO POST GAD|Sag T1 FLAIR +C|t1_mprage km|T1 nach KM|"
        "T1 avec gado|T1c|T1CE|T1wGd|sT1W_3D_TFE_Gd|AX T1 POST|T1+C|T1 C+|t1_vibe_fs_tra_CE|"
        "T1 post contrast|3DT1 injecte|T1 con contraste|T1 + Kontrast|T1 pre and post GAD|"
        "T1W con mdc|T1 CUBE FS post-contrast|Ax T1 Gadolinium"
    ),
    "T2": ("T2W_TSE|t2_tse_tra|AXT2|T2 SPACE|t2_spc_sag|HASTE|T2 TFE|T2 haste|Ax T2 PROPELLER|T2WI|sT2W_TSE"),
    "FLAIR": (
        "T2_FLAIR|Ax T2 FLAIR|FLAIR|t2_space_dark-fluid|t2_space_da-fl_sag_p2_iso|"
        "t2_tirm_tra_dark-fluid|3D FLAIR post GAD|AXT2FLAIR|FLAIR_to_T1|sT2W_FLAIR"
    ),
    "PD": "PD_TSE|PDFS|pd_tse_sag|PDW|Proton Density|PD 3mm",
    "PD/T2": "PDW_T2W_TSE|PD/T2 TSE|PDT2|T2 PD|pd+t2_tse_tra",
    "ADC": "ep2d_diff_3scan_trace_p2_ADC|dADC|ADC map|ADCmap|Apparent Diffusion Coefficient (mm2/s)",
    "DWI": "ep2d_diff_3scan_trace_p2_TRACEW|DWI_b1000|sDWI|DTI 32 dir|AX DWI",
    "SWI": "SWI|SWI_Images|t2_fl3d_tra_p2_swi|SWIp|Ax SWAN",
    "T2star": "T2*_GRE|T2 star|t2_fl2d_tra_hemo|T2W_FFE",
    "MRA": "TOF|3D TOF|TOF_3D_multi-slab|MRA|CE-MRA",
    "T1map": "T1 MAP|t1map|t1_mp2rage_sag_T1_Images",
    "T1rho": "T1rho",
    "T2map": "T2 MAP",
    "": (
        "localizer|AAHead_Scout_T1|Survey|3-plane loc T2|gre_field_mapping|"
        "Perfusion_Weighted T2star|T2 perf|DSC|t1_mp2rage_sag_INV1|eADC|"
        "T1 subtraction|LOC|B1 map|ep2d_diff_ColFA|DTI_FA"
    ),
    None: (
        "HeadCor|OT1|patient1|subject1|visit2|test1|part2|patient12|PD_012|PD007|headspace|space1|"
        "patient2/gre|patient2s|ses-T1|visit_T2|Proton spectroscopy|T12"
    ),
}
CASES = [(text.strip(), name) for name, texts in NAMES.items() for text in texts.split("|")]


@pytest.mark.parametrize(("text", "name"), CASES)
def test_what_a_description_says(text: str, name: str | None) -> None:
    found = weighting(text)
    if found == "T1" and contrast_agent(text):
        found = "T1c"
    assert found == name


def stack(folder: Path, description: str, **tags: object) -> Stack:
    write_series(folder, "T1", description=description, **TINY, **tags)
    problems: list[str] = []
    (found,) = sort_series(read_headers(dicom_files(folder), lambda path, said: problems.append(said))).stacks
    assert problems == []
    return found


@pytest.mark.parametrize(("echo", "name"), [(15.0, "PD"), (95.0, "T2"), (None, None)])
def test_one_echo_of_a_dual_echo_series(tmp_path: Path, echo: float | None, name: str | None) -> None:
    tags = {} if echo is None else {"EchoTime": echo}
    assert modality_of(stack(tmp_path, "PD/T2 TSE", **tags), (), "") == name


@pytest.mark.parametrize(
    ("tags", "name"),
    [
        ({"description": "Ax T1", "ContrastBolusAgent": "Gadovist"}, "T1c"),
        ({"description": "Ax MPRAGE", "ContrastBolusAgent": "NONE"}, "T1"),
        ({"description": "T1W WO contrast", "ContrastBolusAgent": "Gadovist"}, "T1"),
        ({"description": "T1 w/wo contrast", "ContrastBolusAgent": "Gadovist"}, "T1c"),
        ({"description": "Ax T1 pre", "ContrastBolusAgent": "Gadovist"}, "T1"),
        ({"description": "Ax T1", "ProtocolName": "BRAIN WITH CONTRAST T2"}, "T1"),
        ({"description": "Ax", "ProtocolName": "T2 tse"}, "T2"),
    ],
)
def test_header_and_description_together(tmp_path: Path, tags: dict[str, str], name: str) -> None:
    assert modality_of(stack(tmp_path, **tags), (), "") == name


@pytest.mark.parametrize(
    ("description", "folders", "name"),
    [
        ("", "patient1/scans/a", None),
        ("", "visit2/PD_07/x", None),
        ("", "T1_T2_study/p1/t2_tse", "T2"),  # the innermost says most
        ("", "p1/T1/post", "T1c"),
        ("", "p1/sT1W_3D_TFE", "T1"),
        ("localizer", "p1/T1", None),
        ("gre_field_mapping", "T1_T2_study/p1", None),
    ],
)
def test_what_folders_say(tmp_path: Path, description: str, folders: str, name: str | None) -> None:
    assert modality_of(stack(tmp_path, description), (), folders) == name


def test_a_number_after_patient_is_no_weighting(tmp_path: Path) -> None:
    """A series that names nothing, with more slices than the others, in folders patient1 and patient2."""
    for number in (1, 2):
        who = {"patient": f"patient{number}", "study": f"1.{number}"}
        folder = tmp_path / "raw" / f"patient{number}"
        write_series(folder / "a", "T1", number=2, description="t1_mprage", **who)
        write_series(folder / "b", "T2", number=3, description="t2_tse", **who)
        write_series(
            folder / "c", "PD", number=1, description="gre", shape=(40, 48, 24), spacing=(4, 4, 6), **who
        )
    found = find_raw(tmp_path / "raw")
    for case in found.cases:
        assert {name: image.header.series_number for name, image in case.images.items()} == {"T1": 2, "T2": 3}
    assert len([line for line in found.skipped if "modality unknown" in line]) == 2


def test_a_segmentation_is_no_image(tmp_path: Path) -> None:
    write_series(tmp_path / "raw" / "t1", "T1", number=1)
    write_series(tmp_path / "raw" / "t2", "T2", number=2)
    write_series(
        tmp_path / "raw" / "seg", "PD", number=3, kind="SEG", description="T2star lesion segmentation"
    )
    prepare(tmp_path / "raw", tmp_path / "out", progress=False)
    assert not (tmp_path / "out" / "T2star").exists()
    assert "a segmentation, no image; left out" in (tmp_path / "out" / "quality.html").read_text()
