"""What a card can do at best, and the ways through machine code that it is worked out from."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("triton", reason="needs Triton, which has wheels for Linux")

from benchmarks.core.machine_code import Code, Way
from benchmarks.core.roofline import CARDS, LOSS, LOSS_FROM_BOXES, Card, boxes_on_tiles, limits
from cass_core import BoxBatch, MaskSpec, generate_mask
from cass_core.ops.launch import TILE
from cass_core.synthetic import street_boxes

USAGE = "Function kernel: REG:40 STACK:8 SHARED:0 LOCAL:16"
# A tile's loop over boxes (0x40 to 0x60) in one that looks for them (0x20 to 0x80), then one of two
# branches: 3 instructions (0xa0) or 2 (0xd0).
LISTING = """
    /*0000*/  LDC R1, c[0x0][0x28] ;
    /*0010*/  LDG.E.128 R4, desc[UR4][R2.64] ;
    /*0020*/  LDG.E R8, desc[UR4][R6.64] ;
    /*0030*/  @!P0 BRA 0x70 ;
    /*0040*/  DADD R10, R10, R12 ;
    /*0050*/  NOP ;
    /*0060*/  @P1 BRA 0x40 ;
    /*0070*/  F2F.F64.F32 R14, R8 ;
    /*0080*/  @P2 BRA 0x20 ;
    /*0090*/  @!P3 BRA 0xd0 ;
    /*00a0*/  FMUL R4, R4, R5 ;
    /*00b0*/  FADD R4, R4, R5 ;
    /*00c0*/  BRA 0xe0 ;
    /*00d0*/  FADD R4, R4, R4 ;
    /*00e0*/  STG.E.64 desc[UR4][R2.64], R4 ;
    /*00f0*/  EXIT ;
    /*0100*/  BRA 0x100 ;
"""


def test_machine_code() -> None:
    code = Code(USAGE, LISTING)
    assert (code.registers, code.spilled, len(code.texts)) == (40, 24, 16)
    assert (code.widest("LDG"), code.widest("STG"), code.widest("ATOM")) == (128, 64, 0)
    assert code.box_loop == (4, 5)
    # 00 to 30, 70 to 90, d0 to f0.
    assert code.without_box() == Way(10, 1)
    # 00 to 60 without the NOP, 70 to 90, a0 to c0, e0, f0.
    assert code.with_box() == Way(14, 2)


def test_machine_code_without_boxes() -> None:
    code = Code(USAGE, LISTING.replace("@P2 BRA 0x20", "@P2 FADD R1, R1, R1"))
    assert code.box_loop is None
    assert code.without_box() == Way(14, 2)
    assert code.with_box() == Way(0, 0)


def row(**others: object) -> dict[str, object]:
    return {
        "name": LOSS.kernel, "capability": 80, "patches": 8, "box": 0, "without_box": 400,
        "without_box_double": 4, "one_box": 0, "one_box_double": 0,
    } | others  # fmt: skip


CARD = Card("card", 80, 100, 1e9, 1e12)


def test_limits_without_boxes() -> None:
    found = limits([row(), row(capability=90, without_box=1)], CARD, LOSS)
    patches = 64 * 320 * 320
    assert found["memory"] == pytest.approx(12 * patches / 1e12)
    # A warp has 8 patches a lane, and 400 schedulers issue 400e9 instructions a second.
    assert found["instructions"] == pytest.approx(patches / 256 * 400 / 400e9)
    # 100 multiprocessors with 32 units: an instruction of a warp in a cycle.
    assert found["float64"] == pytest.approx(patches / 256 * 4 / 100e9)


def test_limits_with_boxes() -> None:
    case = LOSS_FROM_BOXES._replace(images=2, boxes=3)
    reached = boxes_on_tiles(case)
    free, taken = int((reached == 0).sum()), int((reached > 0).sum())
    rows = [row(name=case.kernel, box=10, without_box=100, one_box=250, one_box_double=16)]
    found = limits(rows, CARD, case)
    assert found["instructions"] == pytest.approx(
        (100 * free + 240 * taken + 10 * int(reached.sum())) / 400e9
    )
    assert found["float64"] == pytest.approx((4 * free + 16 * taken) / 100e9)


def test_boxes_on_tiles() -> None:
    case = LOSS._replace(images=3, boxes=12, image_size=(736, 1280), cells=(92, 160))
    h, w = case.cells
    expected = np.zeros((3, -(-h // TILE[0]), -(-w // TILE[1])), np.int64)
    for image, boxes in enumerate(street_boxes(3, 12, image_size=case.image_size)):
        batch = BoxBatch.from_list([box[None] for box in boxes])
        for mask in generate_mask(batch, case.image_size, case.cells, MaskSpec()):
            for y, x in {(y // TILE[0], x // TILE[1]) for y, x in np.argwhere(np.asarray(mask))}:
                expected[image, y, x] += 1
    found = boxes_on_tiles(case).reshape(expected.shape)
    # Where a box's context ends on a patch its value is 0, which reaches the tile all the same.
    assert (found >= expected).all()
    assert found.sum() <= 1.05 * expected.sum()


def test_cards_are_those_of_their_data_sheets() -> None:
    clocks = [round(card.hertz / 1e9, 2) for card in CARDS]
    assert clocks == [1.41, 1.98, 1.98, 2.41]
