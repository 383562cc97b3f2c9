"""The OpenAPI document of the JSON paths, made from the specs and their checks."""

from __future__ import annotations

import inspect
import re
from typing import Any

from pydantic import TypeAdapter

from cass_core import __version__
from cass_core.arrays import LOGIT_DTYPES, MASK_DTYPES, TARGET_DTYPES
from cass_core.errors import InvalidRequest
from cass_core.specs import LossSpec, MaskSpec, WeightSpec
from cass_server.http.arrays import MAX_LISTED
from cass_server.http.json_requests import PRESETS

_SPECS: dict[str, type] = {"MaskSpec": MaskSpec, "LossSpec": LossSpec, "WeightSpec": WeightSpec}
_SPEC_FIELDS = ("mask_spec", "loss_spec", "weight_spec")
_ATTRIBUTE = re.compile(r"^    (\w+): (.*(?:\n {5,}.*)*)", re.MULTILINE)
_PAIR = {"type": "array", "items": {"type": "integer", "minimum": 1}, "minItems": 2, "maxItems": 2}
_BOX = {"type": "array", "items": {"type": "number"}, "minItems": 4, "maxItems": 4}
_NULL = {"type": "null"}
_CODES = (
    "INVALID_ARGUMENT UNAUTHENTICATED UNIMPLEMENTED NOT_FOUND RESOURCE_EXHAUSTED CANCELLED"
    " DEADLINE_EXCEEDED UNAVAILABLE INTERNAL"
)


def document() -> dict[str, Any]:
    """The document, of OpenAPI 3.1."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "CASS",
            "version": __version__,
            "description": "Soft target masks from ground-truth boxes, and losses on patch logits.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "security": [{}, {"token": []}],
        "paths": {
            "/v1/masks": _post("masks", "Make soft target masks.", "MaskRequest", "Masks"),
            "/v1/loss": _post("loss", "Compute a loss of patch logits.", "LossRequest", "Loss"),
            "/v1/info": _get("info", "Version, device, limits and features.", "Info"),
            "/v1/presets": _get("presets", "All presets with all of their fields.", "Presets"),
            "/healthz": {
                "get": {
                    "operationId": "health",
                    "summary": "Whether requests are answered.",
                    "security": [{}],
                    "responses": {
                        "200": _content("They are.", "Health"),
                        "503": _content("They are not.", "Health"),
                    },
                }
            },
        },
        "components": {
            "schemas": {**{name: _spec(name) for name in _SPECS}, **_schemas()},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


def _content(description: str, schema: str) -> dict[str, Any]:
    return {
        "description": description,
        "content": {"application/json": {"schema": _ref(schema)}},
    }


def _responses(schema: str) -> dict[str, Any]:
    return {"200": _content("The answer.", schema), "default": _content("An error.", "Error")}


def _get(name: str, summary: str, answer: str) -> dict[str, Any]:
    return {
        "get": {"operationId": name, "summary": summary, "responses": _responses(answer)},
    }


def _post(name: str, summary: str, request: str, answer: str) -> dict[str, Any]:
    headers = (
        ("connect-timeout-ms", "integer", "The caller's deadline, in milliseconds from now."),
        ("x-request-id", "string", "An id for logs."),
        ("cass-timings", "string", "Asks for the header server-timing, whatever the value."),
    )
    return {
        "post": {
            "operationId": name,
            "summary": summary,
            "parameters": [
                {"name": name, "in": "header", "description": text, "schema": {"type": kind}}
                for name, kind, text in headers
            ],
            "requestBody": {"required": True, **_content("The request.", request)},
            "responses": _responses(answer),
        }
    }


def _spec(name: str) -> dict[str, Any]:
    """The schema of a spec: types and defaults as declared, ranges as its checks have them."""
    kind = _SPECS[name]
    schema = TypeAdapter(kind).json_schema()
    texts = {
        field: " ".join(text.split())
        for field, text in _ATTRIBUTE.findall(inspect.getdoc(kind) or "")
    }
    properties = schema["properties"]
    for field, entry in properties.items():
        entry.pop("title", None)
        entry["description"] = texts[field]
        if entry.get("type") in ("integer", "number"):
            entry.update(_least(kind, field))
        if "default" in entry and entry["default"] is None:
            del entry["default"]
    if "level_ranges" in properties:
        properties["level_ranges"] = _level_ranges(texts["level_ranges"])
    if name != "WeightSpec":
        properties["preset"] = {
            "enum": list(PRESETS),
            "default": PRESETS[0],
            "description": "Where fields that are not given come from, instead of the defaults.",
        }
    first = (inspect.getdoc(kind) or "").partition("\n")[0]
    return {
        "type": "object",
        "description": first,
        "properties": properties,
        "additionalProperties": False,
    }


def _least(kind: type, field: str) -> dict[str, Any]:
    try:
        kind(**{field: 0})
    except InvalidRequest:
        return {"exclusiveMinimum": 0}
    return {"minimum": 0}


def _level_ranges(text: str) -> dict[str, Any]:
    low, high = {"type": "number", "minimum": 0}, {"type": ["number", "null"]}
    pair = {"type": "array", "prefixItems": [low, high], "minItems": 2, "maxItems": 2}
    return {
        "type": ["array", "null"],
        "items": pair,
        "description": f"{text} An upper bound of null is infinite.",
    }


def _array(dtypes: Any, text: str) -> dict[str, Any]:
    """Nested lists or base64."""
    packed = {
        "type": "object",
        "properties": {
            "data": {
                "type": "string",
                "contentEncoding": "base64",
                "description": "The elements, little-endian, the last dimension fastest.",
            },
            "dtype": {"enum": list(dtypes)},
            "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}},
        },
        "required": ["data", "dtype", "shape"],
        "additionalProperties": False,
    }
    return {"description": text, "anyOf": [{"type": "array"}, {"type": "number"}, packed]}


def _boxes(text: str) -> dict[str, Any]:
    packed = _array(("float32",), "")["anyOf"][2]
    packed["properties"]["counts"] = {
        "type": "array",
        "items": {"type": "integer", "minimum": 0},
        "description": "Number of boxes of each image.",
    }
    packed["required"].append("counts")
    lists = {"type": "array", "items": {"type": ["array", "null"], "items": _BOX}}
    return {"description": text, "anyOf": [lists, packed]}


def _schemas() -> dict[str, Any]:
    floats = ("float32",)
    spec = {"enum": list(PRESETS)}
    encoding = {
        "enum": ["list", "base64"],
        "default": "list",
        "description": f"Of the answer's arrays; lists have {MAX_LISTED} numbers at most.",
    }
    maps = {
        "description": "(h, w) in cells, or a list of them.",
        "anyOf": [_PAIR, {"type": "array", "items": _PAIR, "minItems": 1}],
    }
    sizes = {
        "description": "(height, width) in pixels, of all images or of each.",
        "anyOf": [_PAIR, {"type": "array", "items": _PAIR}],
    }
    inputs = {
        "boxes": _boxes("x1, y1, x2, y2 in pixels of each box of each image."),
        "image_size": sizes,
        "feature_map": maps,
        "mask_spec": {"anyOf": [_ref("MaskSpec"), spec, _NULL]},
        "weight_spec": {"anyOf": [_ref("WeightSpec"), _NULL]},
        "valid_region": _array(floats, "[B, 4]: x1, y1, x2, y2 of the picture in each image."),
        "ignore": _boxes(
            "Regions of each image without annotations: their background has weight 0."
        ),
        "box_weights": _array(floats, "A list for each image, or [M] for all boxes."),
    }
    masks = {
        **inputs,
        "dtype": {"enum": list(MASK_DTYPES), "default": "float32"},
        "return_owner": {"type": "boolean", "default": False},
        "return_weights": {"type": "boolean", "default": False},
        "encoding": encoding,
    }
    loss = {
        "logits": _array(LOGIT_DTYPES, "[B, n_y, n_x] or [B, n_y * n_x]."),
        "target": _array(TARGET_DTYPES, "Values in [0, 1], in the logits' shape."),
        "mask": {"anyOf": [_ref("MaskInputs"), _NULL]},
        "weights": _array(floats, "With a target: a weight for each patch."),
        "loss_spec": {"anyOf": [_ref("LossSpec"), spec, _NULL]},
        "num_boxes": {"type": ["number", "null"], "minimum": 0},
        "return_grad": {"type": "boolean", "default": False},
        "encoding": encoding,
    }
    levels = {
        name: {"type": "array", "items": _array(dtypes, "[B, n_y, n_x]; one of each feature map.")}
        for name, dtypes in (("masks", MASK_DTYPES), ("owners", ("int32",)), ("weights", floats))
    }
    number = {"type": ["number", "null"], "description": "null where it is not finite."}
    return {
        "MaskInputs": _object(inputs, ("boxes", "image_size", "feature_map")),
        "MaskRequest": _object(masks, ("boxes", "image_size", "feature_map")),
        "Masks": _object(levels, ("masks",)),
        "LossRequest": _object(loss, ("logits",)),
        "Loss": _object(
            {
                "loss": _array(("float32", "float64"), "A number, or of each patch."),
                "sum": number,
                "normalizer": number,
                "grad": _array(LOGIT_DTYPES, "If requested, in the logits' shape."),
            },
            ("loss", "sum", "normalizer"),
        ),
        "Info": _object(
            {
                "version": {"type": "string"},
                "device": {"type": "string"},
                "limits": {"type": "object", "additionalProperties": {"type": "number"}},
                "features": {"type": "array", "items": {"type": "string"}},
            },
            ("version", "device", "limits", "features"),
        ),
        "Presets": {
            "type": "object",
            "properties": {
                name: {"type": "object", "additionalProperties": _ref(kind)}
                for name, kind in zip(_SPEC_FIELDS, _SPECS, strict=True)
            },
        },
        "Health": _object({"status": {"enum": ["SERVING", "NOT_SERVING"]}}, ("status",)),
        "Error": _object(
            {
                "error": _object(
                    {
                        "code": {"enum": _CODES.split()},
                        "message": {"type": "string"},
                        "field": {"type": "string"},
                        "reason": {"type": "string"},
                        "retry_after_seconds": {"type": "number"},
                    },
                    ("code", "message"),
                )
            },
            ("error",),
        ),
    }


def _object(properties: dict[str, Any], required: tuple[str, ...]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }
