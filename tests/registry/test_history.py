"""The history of promotions holds against what else lies in its experiment."""

from __future__ import annotations

from pathlib import Path

import pytest

from registry.history import DONE, PROMOTE, Decision, experiment_of, read, write
from tracking.store import connect


def test_a_stray_run_is_ignored_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    client = connect()
    decided = write(client, "lungs", Decision(number=1, kind=PROMOTE, state=DONE, previous=None, version=3))
    where = client.get_experiment_by_name(experiment_of("lungs")).experiment_id
    stray = client.create_run(where, tags={"decision.state": "done"})
    twisted = client.create_run(where, tags={**client.get_run(decided.id).data.tags, "decision.number": "two"})
    assert [each.version for each in read(client, "lungs", 3)] == [3]
    told = capsys.readouterr().err
    for run in (stray, twisted):
        assert f"warning: run {run.info.run_id} is not a promotion decision" in told
