"""The warm-up gives kernels arrays of the right size, which they do not check."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from cass_core.arrays import Array
from cass_core.cpu import run
from cass_core.grid import patch_grid
from cass_core.inputs import LossInputs, MaskInputs


def test_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    fill, sizes = run.fill_mask, []

    def checked(boxes: Any, image_size: Any, feature_map: Any, spec: Any, *rest: Any) -> None:
        mask = rest[1]
        sizes.append(mask.shape)
        assert mask.shape == (boxes.num_images, *patch_grid(feature_map, spec.patch_size))
        fill(boxes, image_size, feature_map, spec, *rest)

    monkeypatch.setattr(run, "fill_mask", checked)
    run.warm_up()
    assert sizes


def test_on_a_gpu() -> None:
    pytest.importorskip("torch")
    from cass_server.engines.cuda import CudaEngine

    calls = []

    class Checked(CudaEngine):
        def masks(
            self, inputs: MaskInputs, masks: Sequence[Array], owners: Sequence[Array], *_: Any
        ) -> None:
            """Compare shapes; compute nothing."""
            calls.append("masks")
            assert [mask.shape for mask in masks] == list(inputs.shapes())

        def losses(self, inputs: LossInputs, *_: Any) -> Any:
            """Compare shapes; compute nothing."""
            calls.append("losses")
            assert inputs.mask is not None
            assert inputs.logits.shape == inputs.mask.shapes()[0]

    Checked("cpu").warm_up()
    assert set(calls) == {"masks", "losses"}
