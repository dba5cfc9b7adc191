"""COCO's run-length encoding against pycocotools, bit for bit."""
from __future__ import annotations

import subprocess
import sys

import pytest

np = pytest.importorskip("numpy")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from ymir_exc import _rle  # noqa: E402

# pycocotools on numpy 2
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def reference():
    return pytest.importorskip("pycocotools.mask")


def random_masks(count, seed=0):
    rng = np.random.default_rng(seed)
    for number in range(count):
        height, width = rng.integers(1, 70, 2)
        mask = rng.random((height, width)) < rng.random()
        if number % 3 == 0:    # a filled rectangle, perhaps an empty one
            mask = np.zeros((height, width), bool)
            top, bottom = sorted(rng.integers(0, height + 1, 2))
            left, right = sorted(rng.integers(0, width + 1, 2))
            mask[top:bottom, left:right] = True
        yield mask


def tight_box(mask):
    ys, xs = np.nonzero(mask)
    return (xs.min(), ys.min(), np.ptp(xs) + 1, np.ptp(ys) + 1) if len(xs) else (0, 0, 0, 0)


def test_known_text():
    mask = np.zeros((3, 4), bool)
    mask[1:, 1] = True
    assert _rle.encode(mask) == {"size": [3, 4], "counts": "426"}    # runs 4, 2, 6: the first three are absolute
    mask[0, 3] = True
    assert _rle.encode(mask)["counts"] == "423OO"    # runs 4, 2, 3, 1, 2: the last two are 1 - 2 and 2 - 3
    assert _rle.encode(np.ones((2, 2)))["counts"] == "04"
    assert _rle.encode(np.zeros((2, 2)))["counts"] == "4"


def test_encodes_as_pycocotools():
    mask_api = reference()
    for mask in random_masks(400):
        ours, theirs = _rle.encode(mask), mask_api.encode(np.asfortranarray(mask.astype(np.uint8)))
        assert (ours["size"], ours["counts"]) == (theirs["size"], theirs["counts"].decode())
        assert (mask_api.decode(ours) == mask).all()


def test_decode_area_and_box():
    for mask in random_masks(400, seed=1):
        rle = _rle.encode(mask)
        as_list = {"size": rle["size"], "counts": _rle.text_to_counts(rle["counts"])}
        for form in (rle, {**rle, "counts": rle["counts"].encode()}, as_list):
            decoded = _rle.decode(form)
            assert decoded.dtype == bool and decoded.shape == mask.shape and (decoded == mask).all()
            assert _rle.area(form) == mask.sum()
            assert _rle.bbox(form) == tight_box(mask)


@pytest.mark.parametrize("make", [
    lambda mask: mask.astype(np.uint8) * 255, lambda mask: mask.astype(np.float32) * 0.5, lambda mask: mask.tolist(),
    lambda mask: np.asfortranarray(mask), lambda mask: np.pad(mask, 2)[2:-2, 2:-2],
])
def test_any_kind_of_mask(make):
    for mask in random_masks(20, seed=2):
        assert _rle.encode(make(mask)) == _rle.encode(mask)


@given(st.lists(st.integers(0, 2**31), min_size=1))
@settings(max_examples=200, deadline=None)
def test_text_round_trip(counts):
    assert _rle.text_to_counts(_rle.counts_to_text(counts)) == counts


@given(st.text(max_size=30))
@settings(max_examples=200, deadline=None)
def test_any_text_is_read_or_refused(text):
    try:
        assert min(_rle.text_to_counts(text), default=0) >= 0
    except ValueError:
        pass


@pytest.mark.parametrize("rle, reason", [
    ({}, "needs counts and size"),
    ({"counts": "04"}, "needs counts and size"),
    ({"counts": "04", "size": [2]}, "needs counts and size"),
    ({"counts": "04", "size": "ab"}, "needs counts and size"),
    ({"counts": "04", "size": [2, 3]}, "cover 4 pixels, the mask has 2 x 3"),
    ({"counts": [-1, 7], "size": [2, 3]}, "cover 6 pixels"),
    ({"counts": "0", "size": [0, 3]}, "0 x 3 pixels is not accepted"),
    ({"counts": "", "size": [10**6, 10**6]}, "not accepted"),
    ({"counts": "0 4", "size": [2, 2]}, "not compressed text"),
    ({"counts": "猫", "size": [2, 2]}, "not compressed text"),
    ({"counts": "oooooooooooooooooooo0", "size": [2, 2]}, "not compressed text"),
    ({"counts": "0o", "size": [2, 2]}, "cut off"),
    ({"counts": "O", "size": [2, 2]}, "negative run"),
])
def test_malformed(rle, reason):
    for function in (_rle.decode, _rle.area, _rle.bbox):
        with pytest.raises(ValueError, match=reason):
            function(rle)


@pytest.mark.parametrize("mask", [[], [[]], [1, 0], [[[1]]]])
def test_not_a_mask(mask):
    with pytest.raises(ValueError, match="a mask must be"):
        _rle.encode(mask)


def test_polygons_as_pycocotools_draws_them():
    mask_api = reference()
    rng = np.random.default_rng(3)
    for number in range(1500):
        height, width = map(int, rng.integers(1, 60, 2))
        corners = 2 * int(rng.integers(3, 9))
        points = rng.uniform(-20, 80, corners) if number % 2 else rng.integers(-5, 65, corners).astype(float)
        if number % 5 == 0:
            points[2:4] = points[0:2]    # a corner twice
        ours = _rle.decode(_rle.from_polygons([points.tolist()], height, width))
        assert (ours == mask_api.decode(mask_api.frPyObjects([points.tolist()], height, width)[0])).all(), points.tolist()


def test_several_polygons_are_one_mask():
    mask_api = reference()
    polygons = [[1, 1, 8, 1, 8, 8, 1, 8], [5, 5, 12, 5, 12, 12, 5, 12], [20, 20, 25, 20, 22, 25]]
    ours = _rle.from_polygons(polygons, 30, 31)
    assert ours["counts"] == mask_api.merge(mask_api.frPyObjects(polygons, 30, 31))["counts"].decode()
    assert _rle.area(_rle.from_polygons([], 3, 4)) == 0


def test_a_wrong_polygon_is_named_among_several():
    with pytest.raises(ValueError, match=r"polygons\[2\]: a polygon needs three points"):
        _rle.from_polygons([[1, 1, 8, 1, 8, 8], [1, 1, 8, 1, 8, 8], [1, 1, 8, 1]], 10, 10)


@pytest.mark.parametrize("polygon", [[], [1, 2, 3, 4], [1, 2, 3, 4, 5, 6, 7], [1, 2, 3, 4, 5, float("nan")], [0, 0, 1e9, 0, 0, 1e9],
                                     [[1, 2], [3, 4], [5, 6]]])
def test_not_a_polygon(polygon):
    with pytest.raises(ValueError, match="polygon"):
        _rle.from_polygons([polygon], 10, 10)


def test_area_and_box_need_no_numpy():
    code = ("import sys; sys.modules['numpy'] = None; from ymir_exc import _rle; r = {'size': [2, 2], 'counts': '04'}; "
            "print(_rle.area(r), _rle.bbox(r))")
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "4 (0, 0, 2, 2)\n"
