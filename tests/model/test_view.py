"""How a picture shows its chest: turned, inverted, framed, mirrored, or no frontal chest X-ray at all."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from components.register.view import fit_view
from model.inference.view import (
    NO_BORDER,
    VARIANTS,
    VIEW,
    Border,
    Limits,
    Variant,
    View,
    Viewer,
    border_of,
    features,
)
from model.preprocessing import standardise
from tests.no_chests import no_chests
from tools.sample import draw_xray

SIDE = 128
PLAIN = VARIANTS[0]


def square(picture: np.ndarray) -> np.ndarray:
    return standardise(picture, SIDE, "area", (0.5, 99.5))


def puts_right(view: View, change: Variant) -> bool:
    """Return whether a view takes back what was done to a picture."""
    return view.change.inverted == change.inverted and (view.change.turns + change.turns) % 4 == 0


def changes(picture: np.ndarray) -> Iterator[np.ndarray]:
    """Yield a picture, uint8 (S, S), with each of :data:`VARIANTS`."""
    for variant in VARIANTS:
        turned = np.ascontiguousarray(np.rot90(picture, variant.turns))
        yield 255 - turned if variant.inverted else turned


pictures = arrays(np.uint8, (64, 64), elements=st.integers(0, 255))


@given(pictures)
def test_the_features_of_a_changed_picture_are_those_of_the_picture_in_another_order(picture: np.ndarray) -> None:
    seen = features(picture)
    for variant, changed in zip(VARIANTS, changes(picture), strict=True):
        np.testing.assert_allclose(features(changed).vector(), seen.changed(variant).vector(), atol=1e-2)
    mirror = features(np.ascontiguousarray(picture[:, ::-1]))
    np.testing.assert_allclose(mirror.vector(), seen.mirrored().vector(), atol=1e-2)


sides = st.floats(0, 0.45)


@given(
    st.builds(Border, sides, sides, sides, sides), st.sampled_from(VARIANTS), st.integers(20, 60), st.integers(20, 60)
)
def test_a_mask_comes_back_to_the_place_it_was_found_in(
    border: Border, change: Variant, height: int, width: int
) -> None:
    view, shape = View(border, change), (height, width)
    picture = np.arange(height * width, dtype=np.uint16).reshape(shape)
    upright = view.upright(picture)
    assert upright.shape == view.upright_shape(shape)
    back = view.put_back(upright, shape)
    inside = border.box(shape)
    np.testing.assert_array_equal(back[inside], picture[inside])
    outside = np.ones(shape, bool)
    outside[inside] = False
    assert not back[outside].any()
    right = view.put_right(picture).astype(int)
    assert (right == (upright.max() - upright.astype(int) if change.inverted else upright)).all()


@given(st.tuples(*[st.integers(0, 20)] * 4), st.sampled_from([0, 90, 255]))
def test_a_border_is_what_is_flat(widths: tuple[int, ...], value: int) -> None:
    random = np.random.default_rng(0)
    inner = random.integers(0, 256, (60, 60)).astype(np.uint8)
    framed = cv2.copyMakeBorder(inner, *widths, cv2.BORDER_CONSTANT, value=(value,))
    found = border_of(framed)
    assert (framed[found.box(framed.shape)] == inner).all()
    height, width = framed.shape
    assert found.outside == pytest.approx(1 - inner.size / (height * width))


@given(st.floats(0, 0.4999), st.floats(0, 0.4999), st.integers(1, 50), st.integers(1, 50))
def test_something_is_left_inside_of_every_border(one: float, other: float, height: int, width: int) -> None:
    assert np.zeros((height, width))[Border(one, other, other, one).box((height, width))].size > 0


@pytest.mark.full
def test_a_single_training_picture_is_no_reason_to_call_others_strange(drawn: list[np.ndarray]) -> None:
    viewer = fit_view(np.stack(drawn[:1]))
    json.dumps(vars(viewer.limits), allow_nan=False)
    assert viewer.look(drawn[1]).frontal


def test_a_flat_picture_has_no_border() -> None:
    assert border_of(np.full((32, 32), 7, np.uint8)) == NO_BORDER


@pytest.fixture(scope="module")
def drawn() -> list[np.ndarray]:
    """Artificial chest X-rays, standardised."""
    sites = ("montgomery", "shenzhen")
    pictures = (draw_xray(sites[number % 2], number, scale=0.25).picture for number in range(60))
    return [square(picture if picture.ndim == 2 else picture[..., 0]) for picture in pictures]


@pytest.mark.full
def test_a_fit_repeats(drawn: list[np.ndarray]) -> None:
    one, other = (fit_view(np.stack(drawn[:10])) for _ in range(2))
    assert one.limits == other.limits
    for name, values in one.weights.items():
        np.testing.assert_array_equal(values, other.weights[name])


def test_drawn_chests_are_put_right_and_other_pictures_are_not_taken_for_them(drawn: list[np.ndarray]) -> None:
    viewer = fit_view(np.stack(drawn[:40]))
    for picture in drawn[40:]:
        for change, changed in zip(VARIANTS, changes(picture), strict=True):
            view = viewer.look(changed)
            assert view.frontal
            assert puts_right(view, change), change
    taken = Counter(kind for kind, picture in no_chests() if viewer.look(square(picture)).frontal)
    assert sum(taken.values()) <= 0.01 * len(list(no_chests())), taken


def test_weights_of_another_program_are_refused(tmp_path: Path) -> None:
    (tmp_path / VIEW).write_bytes(b"\x08\0\0\0\0\0\0\0{}      ")
    limits = Limits(0, 0, 0, 0)
    with pytest.raises(ValueError, match=f"{VIEW} does not fit this program"):
        Viewer.read(tmp_path, limits)
    (tmp_path / VIEW).write_bytes(b"no tensors")
    with pytest.raises(ValueError, match=f"{VIEW} is damaged"):
        Viewer.read(tmp_path, limits)
    assert Viewer.read(tmp_path, None) is None  # a package of an earlier release


@pytest.mark.full
@pytest.mark.timeout(600)
@pytest.mark.skipif("CXR_DATA" not in os.environ, reason="CXR_DATA does not name the 704 X-rays of the paper")
def test_every_real_x_ray_is_put_right_by_a_fit_on_others() -> None:
    files = sorted(Path(os.environ["CXR_DATA"]).rglob("CXR_png/*.png"))
    real = [square(cv2.imread(str(file), cv2.IMREAD_GRAYSCALE)) for file in files]
    right, touched, called_frontal = 0, 0, Counter[str]()
    others = [(kind, square(picture)) for kind, picture in no_chests()]
    for half in (0, 1):
        viewer = fit_view(np.stack(real[half::2]))
        for picture in real[1 - half :: 2]:
            views = [viewer.look(changed) for changed in changes(picture)]
            right += sum(puts_right(view, change) for view, change in zip(views, VARIANTS, strict=True))
            touched += views[0].change != PLAIN
        called_frontal += Counter(kind for kind, picture in others if viewer.look(picture).frontal)
    assert touched == 0
    assert right >= 0.99 * len(real) * len(VARIANTS)
    assert sum(called_frontal.values()) <= 0.01 * 2 * len(others), called_frontal
