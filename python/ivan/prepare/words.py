"""What the words of a description or a folder's name say of an MR series: its weighting, a contrast agent."""

from __future__ import annotations

import re

# Short words count only where they stand by themselves: "patient1" is no T1, "space" no contrast agent (CE),
# "headcoil" no ADC. T1, T2 and PD may follow a plane, a dimension or the letters of sequences: AXT1, 3DT2.
# Not "ses-T1", which is a time point.
_LEAD = r"(?<![a-z0-9])(?<!ses-)(?<!visit[ -])(?<!point[ -])(?:[23]d|s|fs|hr|o?ax|axial|sag|cor|tra)?"
_END = r"(?![a-z])"
_T1 = re.compile(_LEAD + r"t1(?![0-9])")
_T2_WORD = rf"(?:{_LEAD}|(?<=pd)|(?<=pdw))t2(?![0-9])"
_STAR = rf"{_T2_WORD}(?:[ -]?\*|[ -]?star|s{_END})"
_T2 = re.compile(_T2_WORD)
# Not "PD_012", which numbers a patient (Parkinson's disease).
_PD = re.compile(_LEAD + r"pd(?:we?|fs)?(?=t2|(?![a-z0-9]))(?![ -]*[0-9]+(?![a-z0-9]))|proton(?:en)?[ -]?d")
_FLAIR = re.compile(rf"flair|dark.?fluid|(?<![a-z])da[-. ]?fl{_END}")
_T1_SEQUENCES = re.compile(
    r"mp2?.?rage|spgr|bravo|(?<![a-z])vibe|tfl ?3d|(?<![a-z])(?<!b-)(?:[23]d)?tfe" + _END
)
_T2_SEQUENCES = re.compile(r"(?<![a-z])(?:haste(?![a-z])|space(?![a-z0-9]|-[a-z]))")

# Named, but none of the modalities below: left out, unless --map says what they are.
_NONE = re.compile(
    rf"locali[sz]er|scout|survey|smartbrain|(?<![a-z])loc{_END}|calibration|field.?map|(?<![a-z])b[01].?map"
    rf"|(?:diff|dti).*(?<![a-z])(?:(?:col)?fa|exp){_END}|tensor"
    rf"|(?<![a-z])(?:perf|asl|dsc|dce|r?cbf|r?cbv|mtt|eadc){_END}|perfusion|subtract|mp2rage.*inv ?[12]"
)
_FIRST: tuple[tuple[re.Pattern[str], str], ...] = (  # in this order: what says more comes first
    (re.compile(rf"(?<![a-z])d?adc(?:{_END}| ?map)|apparent.?diff"), "ADC"),
    (
        re.compile(rf"(?<![a-z])[sr]?dwi{_END}|diffusion|(?<![a-z])dti{_END}|b1000|(?<![a-z])tracew?{_END}"),
        "DWI",
    ),
    (re.compile(rf"(?<![a-z])swip?{_END}|suscept|(?<![a-z])swan{_END}"), "SWI"),
    (re.compile(_STAR + r"[^/]*map"), "T2starmap"),
    (re.compile(rf"{_STAR}|{_T2_WORD}[^/]*(?:hemo|(?<![a-z])(?:gre|ffe|me2d){_END})"), "T2star"),
    (re.compile(_LEAD + r"t1[ -]?rho"), "T1rho"),
    (re.compile(_LEAD + r"t1w?[ -]?map|mp2rage[^/]* t1 images"), "T1map"),
    (re.compile(_LEAD + r"t2w?[ -]?map"), "T2map"),
    (re.compile(rf"(?<![a-z])(?:[23]d)?tof(?:3d)?{_END}|(?<![a-z])(?:ce-?)?mra{_END}|angio"), "MRA"),
    (re.compile(r"(?<![a-z])bold|fmri"), "BOLD"),
)

_SHORT = r"(?:(?<![a-z])|(?<=t1)|(?<=t1w))"  # T1ce, T1wGd
_AGENT = (
    rf"\+ ?c{_END}|(?<![a-z])c ?\+|(?:(?<=t1)|(?<=t1w))c{_END}|{_SHORT}(?:ce|gd|km|mdc|inj){_END}"
    r"|gad|gd-?dtpa|[ck]ontrast|inje[ck]|dotarem|magnevist|prohance|multihance|omniscan|clariscan"
    rf"|{_SHORT}post(?!er|[ -]?(?:op|proc|treat|surg|chemo|rt{_END}))"
)
_WITH = re.compile(_AGENT)
_WITHOUT = re.compile(
    r"(?<![a-z])(?:pre|vor|ohne|avant|sans|sin|sem|senza|w ?/? ?o|without|non?)[ ./-]*(?:i\.?v\.?[ -]*)?"
    rf"(?:{_AGENT})|(?<![a-z])pre{_END}(?![ -]?(?:op|treat|surg|chemo))|(?<![a-z])nativ|unenhanced"
)
_BOTH = re.compile(
    r"(?<![a-z0-9])w(?:ith)?[ /&+]*(?:and)?[ /]*w(?:ith)? ?/?o(?:ut)?(?![a-z])[ -]*(?:contrast)?"
)


def weighting(text: str) -> str | None:
    """The modality that a text names: `"T1"`, `"FLAIR"`, `"PD/T2"` (one of these) ...; `""` where it names
    what is none of them (localizer, field map, perfusion); None where it says nothing."""
    text = text.lower().replace("_", " ")
    if _NONE.search(text):
        return ""
    for pattern, name in _FIRST:
        if pattern.search(text):
            return name
    t1, t2, flair = _T1.search(text), _T2.search(text), _FLAIR.search(text)
    if flair:  # "T1 FLAIR" is T1 weighted; "T2 FLAIR", "FLAIR to T1" are not
        return "T1" if t1 and not t2 and t1.start() < flair.start() else "FLAIR"
    if _PD.search(text):
        return "PD/T2" if t2 else "PD"
    if t1 or t2:
        return "T1" if t1 and (not t2 or t1.start() < t2.start()) else "T2"
    if _T1_SEQUENCES.search(text):
        return "T1"
    return "T2" if _T2_SEQUENCES.search(text) else None


def contrast_agent(text: str) -> bool | None:
    """Whether a text says that a contrast agent was given; None where it says nothing.

    "T1 pre Gd", "ohne KM", "sans gado" say that it was not; "w/wo contrast" names both, so nothing.
    """
    text = _BOTH.sub(" ", text.lower().replace("_", " "))
    rest = _WITHOUT.sub(" ", text)
    if _WITH.search(rest):
        return True
    return False if rest != text else None
