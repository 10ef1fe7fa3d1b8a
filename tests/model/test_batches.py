"""Every pass over the images is a permutation, and a step's images follow from the seed and its number alone."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.training.batches import Mapped, MappedSubset, Resident, Rows, Sampler, Subset, batches, pictures

SEEDS = st.integers(0, 2**63)


def first_steps(count: int, seed: int, size: int) -> Iterator[list[int]]:
    """The rows of the steps from the first on, asked for in turn."""
    order = Sampler(count, seed)
    return (order.rows(step * size, size).tolist() for step in itertools.count())


@settings(max_examples=60, deadline=None)
@given(count=st.integers(1, 30), size=st.integers(1, 70), passes=st.integers(1, 4), seed=SEEDS)
def test_batches_are_full_and_every_pass_is_a_permutation(count: int, size: int, passes: int, seed: int) -> None:
    steps = -(-passes * count // size)
    drawn = list(itertools.islice(first_steps(count, seed, size), steps))
    assert all(len(rows) == size for rows in drawn)
    stream = [row for rows in drawn for row in rows]
    for number in range(passes):
        assert sorted(stream[number * count : (number + 1) * count]) == list(range(count))


@settings(max_examples=60, deadline=None)
@given(
    count=st.integers(1, 30),
    size=st.integers(1, 70),
    asked=st.lists(st.integers(0, 40), min_size=1, max_size=12),
    seed=SEEDS,
)
def test_what_was_asked_for_before_is_no_matter(count: int, size: int, asked: list[int], seed: int) -> None:
    in_turn = list(itertools.islice(first_steps(count, seed, size), max(asked) + 1))
    order = Sampler(count, seed)
    assert [order.rows(step * size, size).tolist() for step in asked] == [in_turn[step] for step in asked]


@pytest.mark.parametrize("size", [1, 4, 64])
def test_the_stream_does_not_depend_on_how_it_is_cut(size: int) -> None:
    whole = next(first_steps(10, 3, 192))
    assert list(chain.from_iterable(itertools.islice(first_steps(10, 3, size), 192 // size))) == whole


def test_passes_and_seeds_differ() -> None:
    passes = [tuple(rows) for seed in range(4) for rows in itertools.islice(first_steps(20, seed, 20), 8)]
    assert len(set(passes)) == len(passes)


def test_every_image_comes_at_every_place() -> None:
    seen = torch.zeros(6, 6)
    for rows in itertools.islice(first_steps(6, 0, 6), 1200):
        seen[torch.arange(6), rows] += 1
    # 200 expected each, with a standard deviation of 13.
    assert seen.min() > 140
    assert seen.max() < 260


def test_the_order_of_a_long_run_takes_no_memory() -> None:
    order = Sampler(50, 0)
    for step in range(300):
        order.rows(8 * step, 8)
    assert len(order.passes) <= 2


def test_a_step_far_out_is_there_at_once() -> None:
    rows = Sampler(5, 2**62).rows(7 * 10**12, 7)
    assert len(rows) == 7
    assert set(rows.tolist()) == set(range(5))


@pytest.mark.parametrize(("count", "size"), [(0, 4), (1, 4), (8, 4), (9, 4), (3, 1)])
def test_batches_in_order_cover_everything_once(count: int, size: int) -> None:
    drawn = [rows.tolist() for rows in batches(count, size)]
    assert list(chain.from_iterable(drawn)) == list(range(count))
    assert all(len(rows) == size for rows in drawn[:-1])


def test_a_batch_is_the_rows_asked_for() -> None:
    random = np.random.default_rng(0)
    images, masks = random.integers(0, 256, (2, 5, 6, 4), np.uint8)
    # A view with gaps, as cutting from a larger array leaves.
    resident = Resident(Subset(images[:, ::2], masks[:, ::2], list("abcde")), torch.device("cpu"))
    assert len(resident) == 5
    got = resident.batch(torch.tensor([3, 0, 3]))
    for tensor, array in zip(got, (images, masks), strict=True):
        assert tensor.dtype == torch.uint8
        assert np.array_equal(tensor.numpy(), array[[3, 0, 3], ::2])


def mapped(folder: Path, rows: np.ndarray, side: int = 24) -> tuple[MappedSubset, Subset]:
    """Rows of arrays in files, and the same in memory."""
    found = []
    for name, most in (("images", 256), ("masks", 2)):
        np.save(folder / f"{name}.npy", np.random.default_rng(most).integers(0, most, (9, side, side), np.uint8))
        found.append(np.load(folder / f"{name}.npy", mmap_mode="r"))
    images, masks = found
    ids = [str(row) for row in rows]
    return MappedSubset(Rows(images, rows), Rows(masks, rows), ids), Subset(images[rows], masks[rows], ids)


@pytest.mark.parametrize("size", [None, 24, 8, 7])
def test_a_batch_from_a_mapped_file_is_that_of_memory(tmp_path: Path, size: int | None) -> None:
    in_file, in_memory = mapped(tmp_path, np.array([7, 2, 5, 8]))
    one, other = (pictures(subset, torch.device("cpu"), size) for subset in (in_file, in_memory))
    assert (type(one), type(other)) == (Mapped, Resident)
    assert len(one) == len(other) == 4
    rows = torch.tensor([3, 0, 3])
    one.expect(rows)
    for got, expected in zip(one.batch(rows), other.batch(rows), strict=True):
        assert got.dtype == torch.uint8
        assert torch.equal(got, expected)


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="only Linux reports the resident pages of a map")
def test_only_the_rows_of_a_batch_are_read(tmp_path: Path) -> None:
    np.lib.format.open_memmap(tmp_path / "big.npy", mode="w+", dtype=np.uint8, shape=(1024, 256, 256)).flush()
    array = np.load(tmp_path / "big.npy", mmap_mode="r")
    rows = Rows(array, np.arange(1024))
    assert (rows[np.array([3, 960])] == 0).all()
    maps = Path("/proc/self/smaps").read_text().split("big.npy")[1:]
    resident = sum(int(part.split("Rss:")[1].split()[0]) for part in maps) * 1024
    # Two rows of 64 KiB, and what the system maps around a fault.
    assert resident < array.nbytes / 8
