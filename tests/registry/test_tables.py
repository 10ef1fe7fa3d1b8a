"""The registry's tables keep their words whole in a narrow terminal."""

from __future__ import annotations

import pytest

from registry.history import DONE, PROMOTE, Decision
from registry.models import Listed, show_decisions, show_models

DIGEST = "0123456789abcdef"
LINEAGE = {
    "git.commit": DIGEST,
    "git.dirty": "true",
    "data.md5": DIGEST,
    "params.hash": DIGEST[:12],
    "image": "registry.example/defunet:1",
    "kubeflow.run": DIGEST,
}
VERSION = Listed(
    version=123,
    aliases=["champion", "challenger"],
    created="2026-11-30T12:34:56",
    cell="incep_res_unet, montgomery-to-shenzhen, seed 0",
    figures={"validation.original": 0.9753, "test.original": 0.9743},
    gate={"verdict": "passed"},
    lineage=dict(LINEAGE),
)


@pytest.mark.parametrize("width", [80, 100, 200])
def test_versions_have_alias_cell_and_dice_whole(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    show_models([VERSION])
    shown = capsys.readouterr().out
    assert "…" not in shown
    assert max(map(len, shown.splitlines())) <= width
    for word in ("123", "champion", "challenger", "incep_res_unet", "montgomery-to-shenzhen", "0.9753", "0.9743"):
        assert word in shown
    assert ("gate" in shown) == (width == 200)


def test_wide_has_every_column(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    show_models([VERSION], wide=True)
    show_decisions(
        [Decision(kind=PROMOTE, state=DONE, previous=None, version=3, when="2026-11-30T12:34:56")], wide=True
    )
    shown = capsys.readouterr().out
    for heading in ("created (UTC)", "gate", "commit", "data", "params", "image", "Kubeflow run", "difference", "by"):
        assert heading in shown
