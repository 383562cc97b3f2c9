"""The JSON paths: numbers are the core's, errors name the field and the reason."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import cass_core
from cass_core import LossSpec, MaskSpec, WeightSpec, compute_loss, generate_mask
from cass_core.arrays import Array
from cass_server.config.limits import Limits
from tests.server.support.http import BOXES, Running, running_http

LISTS: list[Any] = [[[100, 120, 140, 200], [300.5, 80, 420, 220]], None, [[600, 400, 660, 470]]]
ARRAYS = [np.array(boxes or [], np.float32).reshape(-1, 4) for boxes in LISTS]
MAPS = [[12, 16], [6, 8]]
LOGITS = (np.arange(48) % 9 / 4 - 1).astype(np.float32).reshape(1, 6, 8)
TARGET = np.abs(LOGITS) / 2


@pytest.fixture(scope="module")
def service() -> Iterator[Running]:
    """One for all."""
    with running_http() as started:
        yield started


def packed(array: Array, dtype: str = "float32") -> dict[str, Any]:
    """The object of an array."""
    data = base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()
    return {"data": data, "dtype": dtype, "shape": list(array.shape)}


def unpacked(value: Any) -> Array:
    """The array of an object."""
    assert list(value) == ["data", "dtype", "shape"]
    data = base64.b64decode(value["data"], validate=True)
    return np.frombuffer(data, value["dtype"]).reshape(value["shape"])


@pytest.mark.parametrize("encoding", ["list", "base64"])
def test_masks_are_those_of_the_core(service: Running, encoding: str) -> None:
    """Bit by bit, owners and weights too, as lists and as base64."""
    request = {
        "boxes": LISTS,
        "image_size": [[480, 640], [480, 640], [480, 700]],
        "feature_map": MAPS,
        "mask_spec": {"base_sigma": [0.4, 0.6], "level_ranges": [[0, 90], [90, None]]},
        "return_owner": True,
        "weight_spec": {"balance": "object", "background_weight": 0.5},
        "valid_region": [[0, 0, 640, 480], [0, 0, 600, 480], [0, 0, 700, 480]],
        "ignore": [[[0, 0, 50, 50]], [], None],
        "box_weights": [[1, 2.5], None, [0.25]],
        "return_weights": True,
        "encoding": encoding,
    }
    expected = generate_mask(
        ARRAYS,
        np.array(request["image_size"]),
        [tuple(one) for one in MAPS],
        MaskSpec(base_sigma=(0.4, 0.6), level_ranges=((0, 90), (90, float("inf")))),
        weight_spec=WeightSpec(balance="object", background_weight=0.5),
        valid_region=np.array(request["valid_region"], np.float32),
        ignore=[np.array([[0, 0, 50, 50]]), None, None],
        box_weights=np.array([1, 2.5, 0.25], np.float32),
        return_owner=True,
        return_weights=True,
    )
    answer = service.post("/v1/masks", request)
    assert answer.status == 200, answer.body
    assert list(answer.json) == ["masks", "owners", "weights"]
    for levels, given in zip(expected, answer.json.values(), strict=True):
        for level, value in zip(levels, given, strict=True):
            array = np.array(value, level.dtype) if encoding == "list" else unpacked(value)
            assert array.dtype == level.dtype
            assert np.array_equal(array, level)


def test_boxes_in_base64(service: Running) -> None:
    boxes = {**packed(np.concatenate(ARRAYS)), "counts": [2, 0, 1]}
    rest = {"image_size": [480, 640], "feature_map": [6, 8], "dtype": "uint8"}
    given = service.post("/v1/masks", {**rest, "boxes": boxes, "box_weights": [1, 2, 3]})
    expected = generate_mask(ARRAYS, (480, 640), (6, 8), dtype="uint8")
    assert np.array_equal(np.array(given.json["masks"][0]), expected)
    assert given.json == service.post("/v1/masks", {**rest, "boxes": LISTS}).json


@pytest.mark.parametrize("preset", ["recommended", "improved", "baseline", "cas_detr"])
def test_presets(service: Running, preset: str) -> None:
    """By name, as where an object starts, and with all fields written out."""
    spec = getattr(MaskSpec, preset)()
    named = service.get("/v1/presets").json
    assert MaskSpec(**named["mask_spec"][preset]) == spec
    assert LossSpec(**named["loss_spec"][preset]) == getattr(LossSpec, preset)()
    assert named["weight_spec"] == {
        "default": {"balance": "patch", "background_weight": 1.0},
        "recommended": {"balance": "object", "background_weight": 1.0},
    }
    rest = {"boxes": LISTS, "image_size": [480, 640], "feature_map": [12, 16]}
    for given, meant in (
        (preset, spec),
        ({"preset": preset, "expansion_ratio": 0.7}, spec.replace(expansion_ratio=0.7)),
        (named["mask_spec"][preset], spec),
    ):
        answer = service.post("/v1/masks", {**rest, "mask_spec": given})
        expected = generate_mask(ARRAYS, (480, 640), (12, 16), meant)
        assert np.array_equal(np.array(answer.json["masks"][0], np.float32), expected)


@pytest.mark.parametrize("encoding", ["list", "base64"])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_losses_are_those_of_the_core(service: Running, encoding: str, reduction: str) -> None:
    weights = np.linspace(0, 2, 48, dtype=np.float32).reshape(LOGITS.shape)
    spec = LossSpec(kind="bce", reduction=reduction)  # type: ignore[arg-type]
    expected = compute_loss(LOGITS, TARGET, spec, weights=weights, return_grad=True)
    request = {
        "logits": LOGITS.tolist() if encoding == "list" else packed(LOGITS),
        "target": TARGET.tolist() if encoding == "list" else packed(TARGET),
        "weights": weights.tolist(),
        "loss_spec": {"kind": "bce", "reduction": reduction},
        "return_grad": True,
        "encoding": encoding,
    }
    given = service.post("/v1/loss", request).json
    assert (given["sum"], given["normalizer"]) == (expected.sum, expected.normalizer)
    read = unpacked if encoding == "base64" else (lambda value: np.array(value, np.float32))
    assert np.array_equal(read(given["grad"]), expected.grad)
    loss = read(given["loss"]) if reduction == "none" else np.float32(given["loss"])
    assert np.array_equal(loss, expected.loss)


def test_a_loss_against_boxes(service: Running) -> None:
    """The weights count if something is given that they are made from."""
    mask = {**BOXES, "feature_map": [6, 8], "mask_spec": "baseline"}
    target = generate_mask([np.array([[8, 8, 24, 24]])], (32, 32), (6, 8), MaskSpec.baseline())
    plain = compute_loss(LOGITS, target)
    request = {"logits": LOGITS.tolist(), "mask": mask}
    assert np.float32(service.post("/v1/loss", request).json["loss"]) == plain.loss
    weighted = {**request, "mask": {**mask, "weight_spec": {"background_weight": 0.5}}}
    assert service.post("/v1/loss", weighted).json["normalizer"] < plain.normalizer


def test_what_is_not_finite_is_null(service: Running) -> None:
    logits = np.full((1, 4), np.nan, np.float32)
    given = service.post("/v1/loss", {"logits": packed(logits), "target": [[0, 0, 0, 1]]})
    assert given.json["loss"] is None
    assert given.json["sum"] is None


def test_info_and_health() -> None:
    serving = [True]
    with running_http(limits=Limits(images=7), is_serving=lambda: serving[0]) as service:
        info = service.get("/v1/info").json
        assert info["version"] == cass_core.__version__
        assert info["device"] == "cpu"
        assert info["limits"]["images"] == 7
        assert "weights" in info["features"]
        assert service.get("/healthz").status == 200
        assert service.ask("HEAD", "/healthz").status == 200
        serving[0] = False
        health = service.get("/healthz")
        assert (health.status, health.json) == (503, {"status": "NOT_SERVING"})
        assert service.ended() == {("GetServerInfo", "OK"): 1}


@pytest.mark.parametrize(
    ("change", "field", "reason"),
    [
        ({"boxes": None}, "boxes", "is missing"),
        ({"feature_map": None}, "feature_map", "is missing"),
        ({"image_size": [0, 32]}, "image_size", "must be two whole numbers"),
        ({"strides": [8]}, "strides", "is unknown: there are boxes"),
        ({"boxes": [[[8, 8, 4, 24]]]}, "boxes[0][0].x2", "is smaller than x1"),
        ({"boxes": [[["8", 8, 24, 24]]]}, "boxes[0]", "must"),
        ({"boxes": 3}, "boxes", "must be a list"),
        ({"boxes": {"data": "AAAA", "dtype": "float32", "shape": [0, 4]}}, "boxes.counts", "must"),
        ({"boxes": {"data": "AAAA", "counts": []}}, "boxes.shape", "must be a list of whole"),
        ({"ignore": [[[8, 8, 4, 24]]]}, "ignore[0][0].x2", "is smaller than x1"),
        ({"mask_spec": "best"}, "mask_spec", "must be one of recommended, improved"),
        ({"mask_spec": {"preset": 1}}, "mask_spec.preset", "must be one of recommended"),
        ({"mask_spec": {"sigma": 1}}, "mask_spec.sigma", "is unknown: there are preset, patch"),
        ({"mask_spec": {"patch_size": 1.5}}, "mask_spec.patch_size", "must be a whole number"),
        ({"mask_spec": {"base_sigma": -1}}, "mask_spec.base_sigma", "must be a finite number"),
        ({"mask_spec": {"level_ranges": [[0, 1]] * 9}}, "mask_spec.level_ranges", "has 9 entries"),
        ({"mask_spec": {"merge": "most"}}, "mask_spec.merge", "must be one of max, sum"),
        ({"weight_spec": {"balance": 3}}, "weight_spec.balance", "must be one of patch, object"),
        ({"weight_spec": "object"}, "weight_spec", "must be a JSON object"),
        ({"box_weights": [[-1]]}, "box_weights[0][0]", "must be a finite number of at least 0"),
        ({"box_weights": [1, 2]}, "box_weights", "have the shape [2], there are 1 boxes"),
        ({"valid_region": {"data": "?"}}, "valid_region.shape", "must be a list"),
        ({"dtype": "int8"}, "dtype", "must be one of float32"),
        ({"dtype": "bfloat16"}, "dtype", "bfloat16 needs the encoding base64"),
        ({"return_owner": 1}, "return_owner", "must be True or False"),
        ({"encoding": "hex"}, "encoding", "must be list or base64, got 'hex'"),
        ({"feature_map": [600, 600]}, "encoding", "must be base64: the answer has 360000 numbers"),
        ({"feature_map": [9999, 9999]}, "feature_map", "patches"),
        ({"feature_map": [[4, 4]] * 17}, "feature_map", "17 feature maps"),
        ({"boxes": [[]] * 5000}, "boxes.counts", "5000 images"),
        ({"image_size": [[32, 32]] * 2}, "image_size", "has 2 entries, but there are 1 images"),
    ],
)
def test_errors_of_masks(service: Running, change: Any, field: str, reason: str) -> None:
    answer = service.post("/v1/masks", {**BOXES, **change})
    error = answer.error
    assert answer.status == 400
    assert error["code"] == "INVALID_ARGUMENT"
    assert error["field"] == field
    assert reason in error["reason"]
    assert error["message"] == f"{field}: {error['reason']}"


@pytest.mark.parametrize(
    ("change", "field", "reason"),
    [
        ({"logits": None}, "logits", "is missing"),
        ({"logits": 1.5}, "logits", "must have at least one dimension"),
        ({"logits": [[1], [1, 2]]}, "logits", "has lists of different lengths"),
        ({"logits": [["1"]]}, "logits", "must be nested lists of numbers, or an object"),
        ({"logits": [[True]]}, "logits", "must be nested lists of numbers, or an object"),
        ({"logits": packed(TARGET, "int32")}, "logits.dtype", "must be one of float32, float16"),
        ({"logits": {**packed(TARGET), "data": "x"}}, "logits.data", "is not base64"),
        ({"logits": {**packed(TARGET), "shape": [2]}}, "logits", "has 192 bytes of data"),
        ({"logits": {**packed(TARGET), "shape": [-1]}}, "logits.shape", "must be a list of whole"),
        ({"target": None}, "target", "give either a target or a mask's boxes"),
        ({"target": [[2]]}, "target[0][0]", "is not in [0, 1]"),
        ({"mask": BOXES}, "target", "give either a target or a mask's boxes"),
        ({"target": None, "mask": {**BOXES, "dtype": "uint8"}}, "mask.dtype", "is unknown"),
        ({"target": None, "mask": {**BOXES, "feature_map": [[4, 4]] * 2}}, "feature_map", "one"),
        ({"loss_spec": {"kind": "l1"}}, "loss_spec.kind", "must be one of mse, bce"),
        ({"num_boxes": "3"}, "num_boxes", "must"),
        ({"num_boxes": -1}, "num_boxes", "must"),
        ({"return_grad": "yes"}, "return_grad", "must be True or False"),
        ({"weights": [[-1]]}, "weights[0][0]", "must be a finite number of at least 0"),
    ],
)
def test_errors_of_losses(service: Running, change: Any, field: str, reason: str) -> None:
    request = {"logits": [[1.0]], "target": [[0.5]], **change}
    answer = service.post("/v1/loss", request)
    assert answer.status == 400
    assert answer.error["field"] == field
    assert reason in answer.error["reason"]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "is not JSON: EOF"),
        (b"[1", "is not JSON: EOF"),
        (b"NaN", "is not JSON"),
        (b"\xff", "is not JSON"),
        (b"[" * 100000, "is not JSON: recursion limit"),
        (b"9" * 100000, "is not JSON: number out of range"),
        (b"[1]", "must be a JSON object"),
        (b'"boxes"', "must be a JSON object"),
    ],
)
def test_what_is_no_request(service: Running, body: bytes, reason: str) -> None:
    for path in ("/v1/masks", "/v1/loss"):
        answer = service.post(path, body)
        assert answer.status == 400
        assert answer.error["field"] == "request"
        assert answer.error["reason"].startswith(reason)


def test_lists_are_bounded() -> None:
    """One for each box and row, and no more; they are not parsed first."""
    with running_http(limits=Limits(boxes=5)) as service:
        body = b'{"boxes":[' + b"[]," * (1 << 17) + b"[]]}"
        answer = service.post("/v1/masks", body)
        assert answer.status == 400
        assert answer.error["field"] == "request"
        assert "has more than 65546 lists and objects" in answer.error["reason"]


def test_numbers_beyond_every_float(service: Running) -> None:
    box = b'{"boxes":[[[0,0,1e999,1]]],"image_size":[32,32],"feature_map":[4,4]}'
    assert service.post("/v1/masks", box).error["field"] == "boxes[0][0].x2"
    sigma = b'{"boxes":[],"image_size":[9,9],"feature_map":[4,4],"mask_spec":{"base_sigma":1e999}}'
    assert service.post("/v1/masks", sigma).error["field"] == "mask_spec.base_sigma"


def test_an_error_is_not_as_long_as_its_request(service: Running) -> None:
    for change in ({"mask_spec": {"base_sigma": [1] * 100000}}, {"x" * 100000: 1}):
        answer = service.post("/v1/masks", {**BOXES, **change})
        assert answer.status == 400
        assert len(answer.body) < 3000


def test_paths_methods_and_types(service: Running) -> None:
    missing = service.get("/v1/mask")
    assert missing.status == 404
    assert missing.error == {"code": "UNIMPLEMENTED", "message": "there is no path /v1/mask"}
    wrong = service.get("/v1/masks")
    assert (wrong.status, wrong.headers["allow"]) == (405, "POST")
    assert service.post("/v1/info", {}).status == 405
    # What a page of any origin may send without being asked whether it may.
    for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
        answer = service.post("/v1/masks", BOXES, content_type=kind)
        assert answer.status == 415
        assert "application/json" in answer.error["message"]
    assert service.post("/v1/masks", BOXES, content_encoding="gzip").status == 415
    assert (
        service.post("/v1/masks", BOXES, content_type="Application/JSON; charset=utf-8").status
        == 200
    )


def test_request_ids_and_timings(service: Running) -> None:
    bad = service.post("/v1/masks", {}, x_request_id="mine")
    assert bad.headers["x-request-id"] == "mine"
    good = service.post("/v1/masks", BOXES, cass_timings="1")
    parts = [part.partition(";dur=")[0] for part in good.headers["server-timing"].split(", ")]
    assert parts == ["queue", "compute", "encode"]
    assert "server-timing" not in service.post("/v1/masks", BOXES).headers
