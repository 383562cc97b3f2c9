"""MaskBatch: on batches as Ray Data hands them over, and on a set in Parquet read by Ray."""

from __future__ import annotations

import tempfile
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cass_client import InvalidRequest, MaskSpec
from cass_client.ray import MaskBatch
from cass_core import generate_mask
from cass_core.checks import warn
from cass_core.synthetic import street_boxes
from tests.support.programs import printed

pytestmark = pytest.mark.timeout(150)

SPEC = MaskSpec(patch_size=1)
MAP = (23, 40)
SIZES = np.array([[736, 1280], [480, 640], [736, 1280], [600, 800]])
BOXES = [
    [[600.0, 300.0, 620.0, 360.0], [10.0, 20.0, 200.0, 300.0]],
    [],
    None,
    [[100.0, 300.0, 120.0, 360.0]],
]


def objects(values: list[Any]) -> np.ndarray:
    """A column of objects, one a row."""
    column = np.empty(len(values), object)
    column[:] = values
    return column


def arrow_row(boxes: list[list[float]] | None) -> np.ndarray | None:
    """An image's boxes as Arrow gives nested lists: an array of arrays."""
    return None if boxes is None else objects([np.array(box) for box in boxes])


def batch_of(boxes: list[Any] = BOXES, **columns: Any) -> dict[str, np.ndarray]:
    sizes = {"height": SIZES[:, 0], "width": SIZES[:, 1]}
    return {"boxes": objects([arrow_row(b) for b in boxes]), **sizes, **columns}


def refused(batch: dict[str, np.ndarray], **arguments: Any) -> InvalidRequest:
    add_masks = MaskBatch("local:", MAP, SPEC, **arguments)
    with pytest.raises(InvalidRequest) as caught:
        add_masks(batch)
    return caught.value


def test_sizes_of_columns() -> None:
    batch = batch_of(image_id=np.arange(4))
    found = MaskBatch("local:", MAP, SPEC)(batch)
    assert list(found) == ["boxes", "height", "width", "image_id", "mask"]
    assert "mask" not in batch
    np.testing.assert_array_equal(found["mask"], generate_mask(BOXES, SIZES, MAP, SPEC))
    assert found["mask"][0].any()
    assert not found["mask"][1:3].any()


def test_one_size_levels_and_names() -> None:
    maps = [(92, 160), (46, 80)]
    add_masks = MaskBatch(
        "local:", maps, SPEC, dtype="uint8", image_size=(736, 1280), boxes="gt", mask="m", timeout=9
    )
    found = add_masks({"gt": objects([arrow_row(b) for b in BOXES])})
    assert list(found) == ["gt", "m_0", "m_1"]
    expected = generate_mask(BOXES, (736, 1280), maps, SPEC, dtype="uint8")
    for level in range(2):
        np.testing.assert_array_equal(found[f"m_{level}"], expected[level])


@pytest.mark.parametrize(
    "column",
    [
        objects([objects([[600.0, 300.0, 620.0, 360.0]])]),
        objects([[[600, 300, 620, 360]]]),
        np.array([[[600.0, 300.0, 620.0, 360.0]]]),
        objects([np.array([[600, 300, 620, 360]], object)]),
    ],
    ids=["lists in array", "lists", "tensor", "numbers as objects"],
)
def test_forms_of_boxes(column: np.ndarray) -> None:
    found = MaskBatch("local:", MAP, SPEC, image_size=(736, 1280))({"boxes": column})
    expected = generate_mask([np.array([[600, 300, 620, 360]])], (736, 1280), MAP, SPEC)
    np.testing.assert_array_equal(found["mask"], expected)


def test_boxes_without_a_patch_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warn, "_shown", set())
    add_masks = MaskBatch("local:", MAP, MaskSpec(patch_size=8), image_size=(736, 1280))
    with pytest.warns(UserWarning, match=r"^2 of 3 boxes have no patch: patch_size is 8, "):
        add_masks({"boxes": objects([arrow_row(b) for b in BOXES])})
    add_masks({"boxes": objects([arrow_row(b) for b in BOXES])})


def test_missing_columns_are_named() -> None:
    error = refused(batch_of(), boxes="bbox")
    assert error.field == "bbox"
    assert "'boxes', 'height', 'width'" in error.reason
    assert refused({"boxes": batch_of()["boxes"]}).field == "height"
    assert refused(batch_of(mask=np.zeros(4))).field == "mask"


@pytest.mark.parametrize(
    ("row", "field"),
    [
        ([[1.0, 2.0, 3.0]], "gt[1]"),
        ([[1.0, 2.0, 3.0, 4.0], [1.0, 2.0]], "gt[1]"),
        ([["a", "b", "c", "d"]], "gt[1]"),
        ([[5.0, 2.0, 3.0, 4.0]], "gt[1][0].x2"),
    ],
)
def test_malformed_boxes_are_named(row: list[list[Any]], field: str) -> None:
    column = objects([arrow_row(b) for b in [BOXES[0], row]])
    assert refused({"gt": column}, boxes="gt", image_size=(736, 1280)).field == field


def test_malformed_sizes_are_named() -> None:
    assert refused(batch_of(height=np.array([736, 480, np.nan, 600]))).field == "height[2]"
    whole = [736, 480.0, np.int64(736)]
    for side in ("64", True, np.True_, b"64", 1j):
        assert refused(batch_of(width=objects([*whole, side]))).field == "width[3]"
        assert refused(batch_of(width=np.array([side] * 4))).field == "width"
    assert refused(batch_of(width=objects([*whole, None]))).field == "width[3]"
    assert refused(batch_of(width=objects([*whole, 10**400]))).field == "width"
    assert refused(batch_of(width=objects([*whole, np.array([64])]))).field == "width"


def test_arguments_are_checked_when_it_is_made() -> None:
    with pytest.raises(InvalidRequest, match="feature_map"):
        MaskBatch("local:", (0, 40))
    for size in (("height",), None):
        with pytest.raises(InvalidRequest, match="image_size"):
            MaskBatch("local:", MAP, image_size=size)
    with pytest.raises(InvalidRequest, match="timeout"):
        MaskBatch("local:", MAP, timeout=-1.0)


def test_loads_neither_ray_nor_torch() -> None:
    program = "import sys, cass_client.ray; print({'ray', 'torch', 'numba'} & set(sys.modules))"
    assert printed("-c", program) == "set()\n"


PROGRAM = textwrap.dedent("""
    import logging, sys
    import numpy as np, ray
    from cass_client import MaskSpec
    from cass_client.ray import MaskBatch

    target, folder = sys.argv[1:]
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    try:
        ray.data.DataContext.get_current().enable_progress_bars = False
        arguments = dict(target=target, feature_map=(23, 40), spec=MaskSpec(patch_size=1))
        made = ray.data.read_parquet(f"{folder}/set.parquet").map_batches(
            MaskBatch, fn_constructor_kwargs=arguments, concurrency=1, batch_size=4
        )
        rows = sorted(made.take_all(), key=lambda row: row["image_id"])
        np.save(f"{folder}/masks.npy", np.stack([row["mask"] for row in rows]))
    finally:
        ray.shutdown()
""")


@pytest.mark.slow
def test_parquet_by_ray(address: str, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    # Two images without boxes in one batch with others, and a batch of nothing else.
    boxes: list[Any] = [*BOXES, None, None, None, None, *street_boxes(2, 5, seed=1)]
    sizes = np.array([*SIZES, *SIZES, *SIZES[[0, 0]]])
    columns = {
        "image_id": list(range(len(boxes))),
        "boxes": pyarrow.array(
            [b if b is None else np.asarray(b).tolist() for b in boxes],
            pyarrow.list_(pyarrow.list_(pyarrow.float32())),
        ),
        "height": sizes[:, 0],
        "width": sizes[:, 1],
    }
    parquet.write_table(pyarrow.table(columns), tmp_path / "set.parquet")
    # As a process: Ray leaves sockets and warnings behind. Its sockets' paths have to be short.
    with tempfile.TemporaryDirectory() as short_folder:
        env = {"RAY_TMPDIR": short_folder, "RAY_USAGE_STATS_ENABLED": "0"}
        printed("-c", PROGRAM, address, tmp_path, env=env, limit=120)
    expected = generate_mask(boxes, sizes, MAP, SPEC)
    np.testing.assert_array_equal(np.load(tmp_path / "masks.npy"), expected)


@pytest.mark.parametrize("normalized", [False, True])
@pytest.mark.parametrize("box_format", ["xyxy", "xywh", "cxcywh"])
def test_formats_of_boxes(box_format: Any, normalized: bool) -> None:
    rows: list[Any] = []
    for boxes, (height, width) in zip(BOXES, SIZES, strict=True):
        low, high = np.split(np.array(boxes or [], float).reshape(-1, 4), 2, axis=1)
        first = (low + high) / 2 if box_format == "cxcywh" else low
        second = high if box_format == "xyxy" else high - low
        shares = [width, height, width, height] if normalized else 1
        rows.append((np.hstack([first, second]) / shares).tolist() if boxes else boxes)
    add_masks = MaskBatch("local:", MAP, SPEC, box_format=box_format, normalized=normalized)
    expected = generate_mask(BOXES, SIZES, MAP, SPEC)
    np.testing.assert_allclose(add_masks(batch_of(rows))["mask"], expected, atol=1e-4)


def test_boxes_that_look_wrong_are_refused() -> None:
    shares = [[[0.5, 0.5, 0.25, 0.25]], [], None, [[0.1, 0.1, 0.2, 0.2]]]
    error = refused({**batch_of(shares), "gt": batch_of(shares)["boxes"]}, boxes="gt")
    assert error.field == "gt[0]"
    assert "set normalized=True, and box_format" in error.reason
    assert refused(batch_of([[[2000.0, 0, 2100, 9]] * 2, [], None, []])).field == "boxes[0][0]"
    for options, field in (
        ({"box_format": "yolo"}, "box_format"),
        ({"normalized": 1}, "normalized"),
    ):
        with pytest.raises(InvalidRequest) as caught:
            MaskBatch("local:", MAP, **options)  # type: ignore[arg-type]
        assert caught.value.field == field
