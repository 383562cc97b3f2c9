"""What NVIDIA Triton's Python backend runs: the fused kernel."""

from __future__ import annotations

from typing import Any

from benchmarks.common.workload import IMAGE_SIZE
from benchmarks.rpc.kernel import masks


class Model:
    """What Triton's Python backend calls."""

    def execute(self, requests: Any) -> list[Any]:
        """An answer to each request."""
        import triton_python_backend_utils as backend  # type: ignore[import-not-found]

        answers = []
        for request in requests:
            boxes, counts, feature_map = (
                backend.get_input_tensor_by_name(request, name).as_numpy()
                for name in ("boxes", "counts", "feature_map")
            )
            height, width = feature_map.tolist()
            mask = masks(boxes, counts, IMAGE_SIZE, (height, width))
            answers.append(backend.InferenceResponse([backend.Tensor("mask", mask)]))
        return answers
