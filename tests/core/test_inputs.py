"""A result is never recorded as made from what was put there while it was being made."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.train import CODE as TRAINING_CODE
from core.errors import UserError
from core.inputs import Inputs, code_digest, code_files
from model.training.recipe import Plateau

PARAMS = Plateau(factor=0.2, patience=5)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "code" / "deep").mkdir(parents=True)
    for name in ("code/one.py", "code/deep/two.py", "alone.py", "code/notes.txt", "data.npy"):
        (tmp_path / name).write_text(name)
    return tmp_path


def test_code_is_its_python_files_by_name_and_content(tree: Path) -> None:
    def digest(*places: str) -> str:
        return code_digest(code_files(places, tree))

    before = digest("alone.py", "code")
    assert list(code_files(("alone.py", "code"), tree)) == ["alone.py", "code/deep/two.py", "code/one.py"]
    assert digest("code", "alone.py") == before
    (tree / "code" / "notes.txt").write_text("other")
    assert digest("alone.py", "code") == before
    (tree / "code" / "deep" / "two.py").rename(tree / "code" / "deep" / "three.py")
    assert digest("alone.py", "code") != before
    (tree / "code" / "deep" / "three.py").rename(tree / "code" / "deep" / "two.py")
    assert digest("alone.py", "code") == before
    (tree / "alone.py").write_text("edited")
    assert digest("alone.py", "code") != before


def test_what_changed_is_named(tree: Path) -> None:
    now = [PARAMS]
    inputs = Inputs({"data": tree / "data.npy"}, TRAINING_CODE, PARAMS, lambda: now[0])
    inputs.require_unchanged("train")
    (tree / "data.npy").touch()  # another time, the same content
    inputs.require_unchanged("train")
    (tree / "data.npy").write_text("other")
    now[0] = Plateau(factor=0.5, patience=5)
    with pytest.raises(UserError, match=r"^train: its inputs changed while it ran, so nothing was written") as caught:
        inputs.require_unchanged("train")
    assert caught.value.problems == ["factor: 0.2 -> 0.5", f"{tree / 'data.npy'}: has changed"]
    (tree / "data.npy").unlink()
    assert inputs.changed()[-1] == f"{tree / 'data.npy'}: was deleted"


def test_parameters_that_cannot_be_read_any_more_have_changed() -> None:
    def broken() -> Plateau:
        raise UserError("params.yaml: not valid YAML")

    assert Inputs({}, (), PARAMS, broken).changed() == ["params.yaml: not valid YAML"]
    assert Inputs({}, (), PARAMS, None).changed() == []


@given(
    first=st.dictionaries(st.sampled_from("ab"), st.binary(max_size=3), min_size=2, max_size=2),
    edits=st.lists(st.tuples(st.sampled_from("ab"), st.binary(max_size=3)), max_size=5),
)
def test_any_edit_is_noticed_unless_it_is_taken_back(
    tmp_path_factory: pytest.TempPathFactory, first: dict[str, bytes], edits: list[tuple[str, bytes]]
) -> None:
    folder = tmp_path_factory.mktemp("edits")
    for name, content in first.items():
        (folder / name).write_bytes(content)
    inputs = Inputs({name: folder / name for name in first}, (), PARAMS, None)
    for name, content in edits:
        (folder / name).write_bytes(content)
    now = {name: (folder / name).read_bytes() for name in first}
    assert bool(inputs.changed()) == (now != first)
