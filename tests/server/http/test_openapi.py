"""The OpenAPI document: valid, true of requests and answers, and of the specs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from jsonschema import Draft202012Validator, ValidationError
from openapi_spec_validator import OpenAPIV31SpecValidator

from cass_core import LossSpec, MaskSpec, WeightSpec
from tests.server.support.http import BOXES, Running, running_http


@pytest.fixture(scope="module")
def service() -> Iterator[Running]:
    """One for all."""
    with running_http() as started:
        yield started


@pytest.fixture(scope="module")
def document(service: Running) -> Any:
    """As served."""
    return service.get("/openapi.json").json


def check(document: Any, name: str, value: Any) -> None:
    """Raises unless the value is of the schema."""
    schema = {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
    Draft202012Validator(schema).validate(value)


def test_it_is_valid(document: Any) -> None:
    OpenAPIV31SpecValidator(document).validate()


def test_all_paths_are_there(service: Running, document: Any) -> None:
    for path, methods in document["paths"].items():
        for method in methods:
            assert service.ask(method.upper(), path).status not in (404, 405)
    assert {"/v1/masks", "/v1/loss", "/v1/info", "/v1/presets", "/healthz"} == set(
        document["paths"]
    )


@pytest.mark.parametrize(
    "request_",
    [
        BOXES,
        {**BOXES, "mask_spec": "cas_detr", "encoding": "base64", "return_owner": True},
        {**BOXES, "mask_spec": {"preset": "improved", "level_ranges": [[0, None]]}},
        {**BOXES, "boxes": {"data": "", "dtype": "float32", "shape": [0, 4], "counts": [0]}},
        {**BOXES, "ignore": [None], "box_weights": [[2]], "return_weights": True},
        {**BOXES, "feature_map": [[4, 4], [2, 2]], "weight_spec": {"balance": "object"}},
    ],
)
def test_masks(service: Running, document: Any, request_: Any) -> None:
    check(document, "MaskRequest", request_)
    answer = service.post("/v1/masks", request_)
    assert answer.status == 200, answer.body
    check(document, "Masks", answer.json)


def test_losses(service: Running, document: Any) -> None:
    logits = {"logits": [[[0.0] * 4] * 4], "return_grad": True}
    for request in (
        {**logits, "target": [[[0.5] * 4] * 4], "loss_spec": {"kind": "bce", "logit_clamp": None}},
        {**logits, "mask": BOXES, "loss_spec": "baseline", "encoding": "base64"},
        {**logits, "target": [[[1] * 4] * 4], "loss_spec": {"reduction": "none"}},
    ):
        check(document, "LossRequest", request)
        answer = service.post("/v1/loss", request)
        assert answer.status == 200, answer.body
        check(document, "Loss", answer.json)


def test_the_other_answers(service: Running, document: Any) -> None:
    for path, schema in (
        ("/v1/info", "Info"),
        ("/v1/presets", "Presets"),
        ("/healthz", "Health"),
        ("/nowhere", "Error"),
    ):
        check(document, schema, service.get(path).json)
    check(document, "Error", service.post("/v1/masks", {}).json)


def test_specs_are_described_as_they_are_checked(document: Any) -> None:
    schemas = document["components"]["schemas"]
    for kind in (MaskSpec, LossSpec, WeightSpec):
        properties = schemas[kind.__name__]["properties"]
        assert set(properties) - {"preset"} == set(kind.__dataclass_fields__)
        assert all(entry["description"] for entry in properties.values())
    mask = schemas["MaskSpec"]["properties"]
    assert mask["merge"]["enum"] == ["max", "sum", "clipped_sum"]
    assert (mask["expansion_ratio"]["minimum"], mask["expansion_ratio"]["default"]) == (0, 0.3)
    assert mask["small_target_gain"]["exclusiveMinimum"] == 0
    for wrong in ({"merge": "most"}, {"small_target_gain": 0}, {"sigma": 1}, {"patch_size": 0.5}):
        with pytest.raises(ValidationError):
            check(document, "MaskSpec", wrong)
