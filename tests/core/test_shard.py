"""Every X-ray is in exactly one shard, whatever else there is; what is no shard is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import UserError
from core.shard import MOST, Shard, distinct, number_of, require_all

NAMES = st.text(st.characters(codec="utf-8", exclude_characters="/"), min_size=1, max_size=30)
NUMBERS = st.integers(1, 40)


@given(NAMES, NAMES, NUMBERS)
def test_an_xray_is_in_exactly_one_shard(site: str, identity: str, of: int) -> None:
    (shard,) = (shard for shard in Shard.every(of) if shard.has(site, identity))
    assert shard.number == number_of(site, identity, of)


def test_the_shard_of_an_xray_never_changes() -> None:
    # Written down: parts that another version made must still fit.
    cases = [("montgomery", f"MCUCXR_{number:04}_0") for number in range(1, 9)]
    found = [next(shard.number for shard in Shard.every(7) if shard.has(*case)) for case in cases]
    assert found == [4, 5, 2, 7, 5, 5, 5, 2]


def test_shards_are_of_like_size() -> None:
    counts = [sum(shard.has("shenzhen", f"CHNCXR_{n:04}_1") for n in range(4000)) for shard in Shard.every(8)]
    assert sum(counts) == 4000
    assert max(abs(count - 500) for count in counts) < 100  # five standard deviations


@given(st.integers(0, 200), NUMBERS)
def test_ranges_in_order_are_the_whole(count: int, of: int) -> None:
    ranges = [shard.range_of(count) for shard in Shard.every(of)]
    assert [item for each in ranges for item in each] == list(range(count))
    assert max(map(len, ranges)) - min(map(len, ranges)) <= 1


@given(NUMBERS.flatmap(lambda of: st.sampled_from(Shard.every(of))))
def test_a_shard_is_what_its_text_says(shard: Shard) -> None:
    assert Shard.parse(str(shard)) == shard


@pytest.mark.parametrize(
    "text",
    ["0/4", "5/4", "a/b", "1/0", "1", "/", "", "1/2/3", "-1/4", "1.5/4", " 1/4", "1/4\n", "١/4", f"1/{MOST + 1}"],
)
def test_what_is_no_shard_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(UserError, match=r"not a shard; give i/N with i from 1 to N") as caught:
        Shard.parse(text)
    assert caught.value.problems == []


def test_parts_are_put_in_order_and_must_be_complete() -> None:
    parts = {Path("b"): "2/3", Path("c"): "3/3", Path("a"): "1/3"}
    assert require_all(parts) == [Path("a"), Path("b"), Path("c")]
    for changes, message in (
        ({Path("c"): "3/4"}, "c: shard 3/4, but a is 1/3; give parts of one number"),
        ({Path("c"): "2/3"}, "c: shard 2/3, as b is too; give each shard once"),
        ({Path("c"): ""}, "c: not a part that a step wrote with --shard; give the output of each shard"),
    ):
        with pytest.raises(UserError) as caught:
            require_all(parts | changes)
        assert str(caught.value) == message
    with pytest.raises(UserError) as caught:
        require_all({Path("a"): "4/9"})
    assert str(caught.value) == ("8 of 9 shards are missing: 1/9, 2/9, 3/9, 5/9, 6/9 and 3 more; run them, then merge")


def test_a_merge_needs_parts_each_once() -> None:
    with pytest.raises(UserError, match="no parts to merge"):
        distinct([])
    with pytest.raises(UserError, match="a: named twice; give each shard once"):
        distinct([Path("a"), Path("b"), Path("a")])
