"""What the report step refuses, and what it says: every file that is missing or broken, at once."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from components.report import PAGE
from components.report.rows import check_row
from core.cell import CASES, HISTORY, PROVENANCE, ROC, ROWS, Cell
from core.errors import UserError
from core.results import ADDED, Row
from tests.components.written_run import command, make, write_run


@pytest.fixture
def small_run(tmp_path: Path) -> Path:
    return write_run(tmp_path, ["defu_net"], ["mixed"])


def test_no_evaluation(small_run: Path) -> None:
    shutil.rmtree(small_run / "evaluations")
    with pytest.raises(UserError, match="no evaluation found; run the evaluate step"):
        make(small_run, small_run / "reports")
    assert not (small_run / "reports").exists()


def test_every_missing_cell_is_named(small_run: Path) -> None:
    cells = [Cell("defu_net", "mixed", seed) for seed in (0, 3, 4)]
    with pytest.raises(UserError) as caught:
        make(small_run, small_run / "reports", cells)
    assert caught.value.problems == ["defu_net/mixed/seed-3", "defu_net/mixed/seed-4"]


def test_all_missing_and_broken_files_are_listed_at_once(small_run: Path) -> None:
    evaluation, model = (small_run / name / "defu_net/mixed/seed-0" for name in ("evaluations", "models"))
    (evaluation / ROWS).write_text('[{"network": ')
    (evaluation / CASES).unlink()
    (evaluation / ROC).write_text("fpr,other\n0,1\n")
    next((evaluation / "overlays").glob("worst*")).write_bytes(b"no picture")
    (model / HISTORY).write_text("")
    (small_run / "reports").mkdir()
    (small_run / "reports" / "kept").touch()
    with pytest.raises(UserError) as caught:
        make(small_run, small_run / "reports")
    problems = "\n".join(caught.value.problems)
    assert len(caught.value.problems) == 5
    for name in (ROWS, CASES, ROC, "worst-", HISTORY):
        assert name in problems
    assert [path.name for path in (small_run / "reports").iterdir()] == ["kept"], "the earlier report is untouched"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"dice": "0.9"}, "dice is '0.9'"),
        ({"dice": float("inf")}, "dice is inf"),
        ({"auc": True}, "auc is True"),
        ({"seed": 1}, "belongs to defu_net/mixed/seed-1"),
        ({"seed": 0.0}, "seed is 0.0"),
        ({"masks": "eroded"}, "masks is 'eroded'"),
        ({"split": "holdout"}, "split is 'holdout'"),
        ({"dice_ci95": [0.1]}, r"dice_ci95 is \[0.1\]"),
        ({"sex": "X"}, "sex is 'X'"),
        ({"age": "20-30"}, "age is '20-30'"),
        ({"few": 1}, "few is 1"),
        ({"nsd2": "1"}, "nsd2 is '1'"),
        ({"extra": 1}, "keys missing or unknown: extra"),
    ],
)
def test_broken_rows_are_told(small_run: Path, change: dict[str, Any], said: str) -> None:
    row = json.loads((small_run / "evaluations/defu_net/mixed/seed-0" / ROWS).read_text())[0]
    cell = Cell("defu_net", "mixed", 0)
    assert check_row(row, cell) == row
    with pytest.raises(ValueError, match=said):
        check_row(row | change, cell)


def test_rows_of_an_earlier_version_are_read_where_they_are_kept_and_nowhere_else(small_run: Path) -> None:
    now = json.loads((small_run / "evaluations/defu_net/mixed/seed-0" / ROWS).read_text())[0]
    before = {name: value for name, value in now.items() if name not in ADDED}
    assert len(before) == 20
    cell = Cell("defu_net", "mixed", 0)
    with pytest.raises(ValueError, match="keys missing or unknown: age, expected_dice, few"):
        check_row(before, cell)
    read = check_row(before, cell, kept=True)
    assert list(read) == list(Row.__annotations__)
    assert (read["sex"], read["age"], read["few"]) == ("all", "all", False)
    assert read["stored_dice"] is read["soft_dice_batch2"] is read["nsd2"] is None
    assert (read["dice"], read["assd"]) == (now["dice"], now["assd"])
    assert check_row(now, cell, kept=True) == now, "what is there stays"
    with pytest.raises(ValueError, match="keys missing or unknown: dice"):
        check_row({name: value for name, value in before.items() if name != "dice"}, cell, kept=True)


def test_the_same_row_twice_is_told(small_run: Path) -> None:
    path = small_run / "evaluations/defu_net/mixed/seed-0" / ROWS
    rows = json.loads(path.read_text())
    path.write_text(json.dumps([*rows, rows[0]]))
    with pytest.raises(UserError, match="twice: defu_net mixed"):
        make(small_run, small_run / "reports")


def test_a_split_that_is_none(small_run: Path) -> None:
    (small_run / "splits" / "mixed.json").write_text('{"train": []}')
    with pytest.raises(UserError, match=r"mixed\.json: not a split"):
        make(small_run, small_run / "reports")


def test_command_takes_cells_and_fails_clearly(small_run: Path) -> None:
    done = command(small_run, small_run / "reports", "--cell", "defu_net/mixed/0", "--cell", "unet/mixed/seed-1")
    assert done.returncode == 1
    assert "error:" in done.stderr
    assert "unet/mixed/seed-1" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (small_run / "reports").exists()
    done = command(small_run, small_run / "reports", "--cell", "defu_net")
    assert done.returncode == 1
    assert "write network/scenario/seed" in done.stderr


def test_cells_that_do_not_belong_together_are_refused_and_named(tmp_path: Path) -> None:
    root = write_run(tmp_path, ["defu_net", "unet"], ["mixed"])
    first, second = (Path("models") / name / "mixed" / "seed-0" / PROVENANCE for name in ("unet", "defu_net"))
    record = json.loads((root / second).read_text())
    changed = record | {
        "params": record["params"] | {"epochs": 24},
        "code": {"model/training/losses.py": "f" * 64},
        "weights": "9" * 64,
    }
    (root / second).write_text(json.dumps(changed))
    with pytest.raises(UserError, match=r"^the cells of this report do not match; run `dvc repro`") as caught:
        make(root, root / "reports")
    assert caught.value.problems == [
        "defu_net/mixed/seed-0: the evaluation is of other weights than the model's",
        'model/training/losses.py: "111111111111" (unet/mixed/seed-0), "ffffffffffff" (defu_net/mixed/seed-0)',
        "train.epochs: 12 (unet/mixed/seed-0), 24 (defu_net/mixed/seed-0)",
    ]
    assert not (root / "reports").exists()
    make(root, root / "reports", mixed=True)
    assert (root / "reports" / PAGE).exists()
    (root / first).write_text('{"params": {}}')
    with pytest.raises(UserError) as told:
        make(root, root / "reports")
    assert told.value.problems == [f"{root / first}: not an output of the train step ('manifest'); run it again"]
