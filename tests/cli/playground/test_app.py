"""What the playground answers, to whom, and whether its page has all that it names."""

from __future__ import annotations

import asyncio
import dataclasses
import io
import json
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image

import cass_cli.playground
from cass_cli.playground.app import Playground
from cass_cli.playground.remote import ClientEngine, NoAnswer
from cass_cli.playground.scenes import DataSet
from cass_client import CassClient
from cass_core import InvalidRequest, MaskSpec, WeightSpec, generate_mask
from cass_core.inputs import MaskInputs
from cass_core.synthetic import street_boxes

PAGE = Path(cass_cli.playground.__file__).parent / "page"
TOKEN = "secret"
HOSTILE = "<img src=x onerror=alert(1)>"


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def value(self) -> Any:
        return json.loads(self.body)


async def _service(scope: Any, receive: Any, send: Any) -> None:
    """Tells what arrives at the HTTP service."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": f"service {scope['path']}".encode()})


def ask(app: Playground, path: str, method: str = "GET", query: str = "", **given: str) -> Answer:
    headers = {"host": "127.0.0.1:5", **given}
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "query_string": query.encode(),
        "headers": [(k.encode(), v.encode()) for k, v in headers.items()],
    }
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request", "body": b""}

    asyncio.run(app(scope, receive, send))
    listed = {k.decode(): v.decode() for k, v in sent[0]["headers"]}
    return Answer(sent[0]["status"], listed, b"".join(m.get("body", b"") for m in sent[1:]))


@pytest.fixture
def data(tmp_path: Path) -> DataSet:
    names = ["first.png", "second.png"]
    for name in names:
        Image.new("RGB", (40, 30), (10, 200, 30)).save(tmp_path / name)
    (tmp_path / "file.json").write_text(
        json.dumps(
            {
                "images": [
                    {"id": i, "file_name": name, "width": 40, "height": 30}
                    for i, name in zip((7, HOSTILE), names, strict=True)
                ],
                "categories": [{"id": 3, "name": "cone"}],
                "annotations": [
                    {"id": 1, "image_id": HOSTILE, "bbox": [4, 5, 6.5, 7], "category_id": 3}
                ],
            }
        )
    )
    return DataSet.read(tmp_path / "file.json", tmp_path, False)


@pytest.fixture
def app(data: DataSet) -> Iterator[Playground]:
    with CassClient("local:") as client:
        yield Playground(_service, client, data, token=TOKEN)


def test_the_page(app: Playground) -> None:
    answer = ask(app, "/secret/")
    assert answer.status == 200
    assert answer.body == (PAGE / "index.html").read_bytes()
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'; ")
    assert "unsafe" not in policy
    assert answer.headers["referrer-policy"] == "no-referrer"
    script = ask(app, "/secret/main.js")
    assert script.headers["content-type"] == "text/javascript; charset=utf-8"
    head = ask(app, "/secret/main.js", "HEAD")
    assert (head.status, head.body) == (200, b"")
    assert head.headers["content-length"] == str(len(script.body))


@pytest.mark.parametrize(
    ("path", "method", "headers", "status"),
    [
        ("/", "GET", {}, 404),
        ("/secret", "GET", {}, 404),  # what the page names would be beside it
        ("/Secret/", "GET", {}, 404),
        ("/secre/", "GET", {}, 404),
        ("/v1/masks", "POST", {}, 404),
        ("/wrong/v1/masks", "POST", {}, 404),
        ("/secret/../app.py", "GET", {}, 404),
        ("/secret/nothing.js", "GET", {}, 404),
        ("/secret/street/-1.json", "GET", {}, 404),
        ("/secret/data/2.json", "GET", {}, 404),
        ("/secret/main.js", "POST", {}, 405),
        ("/secret/", "GET", {"host": "evil.example:5"}, 403),
        ("/secret/", "GET", {"host": "127.0.0.1.evil.example:5"}, 403),
        ("/secret/v1/masks", "POST", {"origin": "http://evil.example"}, 403),
        ("/secret/v1/masks", "POST", {"origin": "http://127.0.0.1:6"}, 403),
        ("/secret/v1/masks", "POST", {"origin": "null"}, 403),
        ("/secret/v1/masks", "POST", {"origin": "http://127.0.0.1:5"}, 200),
        ("/secret/v1/masks", "POST", {"host": "localhost:5"}, 200),
    ],
)
def test_who_is_answered(
    app: Playground, path: str, method: str, headers: dict[str, str], status: int
) -> None:
    answer = ask(app, path, method, **headers)
    assert answer.status == status
    if status == 200:
        assert answer.body == b"service /v1/masks"
    else:
        assert answer.value["error"]["message"]
        assert "access-control-allow-origin" not in answer.headers


def test_the_data_set(app: Playground, data: DataSet) -> None:
    told = ask(app, "/secret/playground.json").value
    assert told == {"target": "local:", "data": {"file": str(data.path), "count": 2}}
    assert ask(app, "/secret/data/0.json").value == {
        "id": "7",
        "size": [30, 40],
        "boxes": [],
        "labels": [],
        "picture": True,
    }
    scene = ask(app, "/secret/data/1.json").value
    assert (scene["id"], scene["boxes"]) == (HOSTILE, [[4, 5, 10.5, 12]])
    assert scene["labels"] == ["cone"]
    picture = ask(app, "/secret/data/1.jpg")
    assert picture.headers["content-type"] == "image/jpeg"
    with Image.open(io.BytesIO(picture.body)) as image:
        assert image.size == (40, 30)
        assert abs(np.asarray(image).astype(int) - (10, 200, 30)).max() < 8
    assert ask(app, "/secret/data/find", query="id=7").value == {"index": 0}
    missing = ask(app, "/secret/data/find", query="id=8")
    assert missing.status == 404
    assert "'8' is not the id" in missing.value["error"]["message"]


def test_a_picture_that_is_gone(app: Playground, data: DataSet) -> None:
    assert data.images is not None
    (data.images / "first.png").unlink()
    answer = ask(app, "/secret/data/0.jpg")
    assert answer.status == 404
    assert "first.png: no such file" in answer.value["error"]["message"]


def test_a_drawn_street(app: Playground) -> None:
    scene = ask(app, "/secret/street/3.json").value
    np.testing.assert_array_equal(np.float32(scene["boxes"]), street_boxes(1, 30, seed=3)[0])
    assert scene["size"] == [736, 1280]
    with Image.open(io.BytesIO(ask(app, "/secret/street/3.jpg").body)) as image:
        assert image.size == (1280, 736)


def test_who_computes(app: Playground, address: str) -> None:
    assert ask(app, "/secret/server.json").value["device"] == "cpu"
    with CassClient("127.0.0.1:1", timeout=0.5) as client:
        away = ask(Playground(_service, client, None, token=TOKEN), "/secret/server.json")
    assert away.status == 503
    with CassClient(address) as client:
        there = ask(Playground(_service, client, None, token=TOKEN), "/secret/server.json")
    assert there.value["limits"]["images"] > 0


def test_an_engine_that_asks_a_server(address: str) -> None:
    """The bits of the core, whatever is asked for."""
    boxes = street_boxes(2, 5, image_size=(64, 96))
    size, maps = (64, 96), [(8, 12), (4, 6)]
    spec = MaskSpec.baseline().replace(base_sigma=0.8)
    weighting = (WeightSpec(balance="object"), [[0, 0, 50, 60]] * 2, [[[1, 2, 30, 40]], []])
    inputs = MaskInputs.check(boxes, size, maps, spec, "float32", True)
    inputs = inputs.with_weights(True, *weighting, [[1, 2, 3, 4, 5]] * 2)
    out = [[np.empty(shape, kind) for shape in inputs.shapes()] for kind in ("f4", "i4", "f4")]
    with CassClient(address) as client:
        ClientEngine(client).masks(inputs, out[0], out[1], None, weights=out[2])
    expected = generate_mask(
        boxes,
        size,
        maps,
        spec,
        weight_spec=weighting[0],
        valid_region=weighting[1],
        ignore=weighting[2],
        box_weights=[[1, 2, 3, 4, 5]] * 2,
        return_owner=True,
        return_weights=True,
    )
    for arrays, wanted in zip(out, expected, strict=True):
        for array, one in zip(arrays, wanted, strict=True):
            np.testing.assert_array_equal(array, one)
    assert out[0][0].any()


def test_an_engine_whose_server_is_away() -> None:
    inputs = MaskInputs.check([None], (8, 8), (1, 1), MaskSpec(), "float32", False)
    with CassClient("127.0.0.1:1", timeout=0.5) as client, pytest.raises(NoAnswer) as caught:
        ClientEngine(client).masks(inputs, [np.empty((1, 1, 1), np.float32)], [], None)
    assert caught.value.code.name == "UNAVAILABLE"
    assert "127.0.0.1:1" in str(caught.value)


def test_a_file_without_images(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    path.write_text('{"images": [], "annotations": [], "categories": []}')
    with pytest.raises(InvalidRequest, match="has no image"):
        DataSet.read(path, None, False)


# ---- the page's files

FILES = {
    path.relative_to(PAGE).as_posix(): path.read_text(encoding="utf-8")
    for path in PAGE.rglob("*")
    if path.is_file()
}
SCRIPTS = {name: text for name, text in FILES.items() if name.endswith(".js")}
HTML = FILES["index.html"]


def test_every_option_has_a_control() -> None:
    names = set(re.findall(r'\bname: "(\w+)"', SCRIPTS["model/options.js"]))
    specs = {field.name for spec in (MaskSpec, WeightSpec) for field in dataclasses.fields(spec)}
    assert names == specs


def test_what_the_page_names_is_there(app: Playground) -> None:
    named = set(re.findall(r'(?:src|href)="([\w.]+)"', HTML))
    for name, text in SCRIPTS.items():
        folder = PurePosixPath(name).parent
        for other in re.findall(r'from "(\.[\w./]+)"', text):
            named.add(posixpath.normpath(folder / other))
    assert named == set(FILES) - {"index.html"}
    for name in FILES:
        assert ask(app, f"/secret/{name}").body.decode() == FILES[name]
    ids = re.findall(r'id="([\w-]+)"', HTML)
    assert len(ids) == len(set(ids))
    made = set(re.findall(r'id: "([\w-]+)"', "".join(SCRIPTS.values())))
    for name, text in SCRIPTS.items():
        missing = set(re.findall(r'byId\("([\w-]+)"\)', text)) - set(ids) - made
        assert not missing, (name, missing)


def test_nothing_from_elsewhere() -> None:
    """No address but of XML's names, no style or script within a page, no text as HTML."""
    for name, text in FILES.items():
        own = text.replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?:|//\w+\.\w+/", own), name
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|\beval\(", own), name
    assert not re.search(r"<style|<script(?! type=\"module\" src)|\sstyle=|\son\w+=", HTML)
