"""The playground in a real browser, before its real service: what one does and sees there."""

from __future__ import annotations

import contextlib
import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from cass_core import MaskSpec, WeightSpec, generate_mask
from cass_core.synthetic import street_scene
from tests.cli.playground.browser import Browser, browser, needs_browser
from tests.cli.playground.command import playground
from tests.support.programs import ended, printed
from tests.support.servers import serving

STREET = street_scene(0)
SIZE, MAP = (736, 1280), (92, 160)
# Modules are there once: these are what the page itself works with.
MODULES = """
    const [{ panes }, { scaleOf }, { state, view }] = await Promise.all(
      ["view/panes", "view/geometry", "model/state"].map(
        (name) => import(new URL(`${name}.js`, location.href))));
"""
READOUT = "document.querySelector('[data-pane=b] + .readout').textContent"
READY = "[...document.querySelectorAll('.pane')].every((p) => p.ariaBusy === 'false')"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with playground() as address:
        yield address


@pytest.fixture
def page(url: str, tmp_path: Path) -> Iterator[Browser]:
    """The drawn street, answered; nothing may have gone wrong by the end."""
    with browser(tmp_path / "profile") as one:
        one.open(url)
        settle(one)
        yield one
        assert one.errors == []


def settle(page: Browser) -> None:
    """Wait until both masks are those of what is set."""
    page.until(f"document.querySelectorAll('.pane').length === 3 && {READY}")
    page.run("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    page.until(READY)


def inside(page: Browser, expression: str) -> Any:
    """An expression over the page's own state and panes."""
    return page.run(f"(async () => {{ {MODULES} return {expression}; }})()")


def on_pane(page: Browser, x: float, y: float, pane: str = "b") -> tuple[float, float]:
    """Where a pixel of the picture is in the window."""
    left, top, scale = inside(
        page,
        f"(() => {{ const box = panes.{pane}.world.getBoundingClientRect();"
        f" return [box.x, box.y, scaleOf(panes.{pane}.port)]; }})()",
    )
    return left + x * scale, top + y * scale


def boxes_of(page: Browser) -> npt.NDArray[np.float32]:
    found = inside(page, "state.boxes.map((box) => box.xyxy)")
    return np.array(found, np.float32).reshape(-1, 4)


def mask_of(page: Browser, pane: str = "b", what: str = "mask") -> npt.NDArray[Any]:
    shape = inside(page, f"panes.{pane}.result.{what}.shape")
    values = inside(page, f"[...panes.{pane}.result.{what}.values]")
    return np.array(values, np.float64).reshape(shape)


def core(boxes: Any, spec: MaskSpec, **options: Any) -> Any:
    return generate_mask([boxes], SIZE, MAP, spec, **options)


def pick_up(page: Browser, tool: str) -> None:
    page.run(f"document.querySelector('[name=tool][value={tool}]').click()")


def type_into(page: Browser, selector: str, value: object, event: str = "input") -> None:
    page.run(
        f"(() => {{ const input = document.querySelector({json.dumps(selector)});"
        f" input.value = {json.dumps(value)}; input.dispatchEvent(new Event('{event}')); }})()"
    )
    settle(page)


@needs_browser
@pytest.mark.timeout(300)
def test_the_street(page: Browser) -> None:
    """As it opens: both presets over the drawn street, as the core has them."""
    np.testing.assert_array_equal(boxes_of(page), STREET.boxes)
    for pane, spec in (("a", MaskSpec.baseline()), ("b", MaskSpec.recommended())):
        mask, owner, weights = core(STREET.boxes, spec, return_owner=True, return_weights=True)
        np.testing.assert_array_equal(mask_of(page, pane), mask[0])
        np.testing.assert_array_equal(mask_of(page, pane, "owner"), owner[0])
        np.testing.assert_array_equal(mask_of(page, pane, "weights"), weights[0])
    # What is seen is where the values are: opaque on objects, clear far from them.
    alpha = inside(
        page,
        "[...panes.b.layer.getContext('2d').getImageData(0, 0, 160, 92).data]"
        ".filter((_, i) => i % 4 === 3)",
    )
    shown = np.array(alpha).reshape(MAP)
    expected = core(STREET.boxes, MaskSpec())[0]
    np.testing.assert_array_equal(shown > 0, expected > 0)
    assert (shown[expected == 1] == 255).all()
    assert inside(page, "panes.b.picture.naturalWidth") == 1280
    assert page.run("document.getElementById('time').textContent").endswith(" ms")
    assert "In this process · cpu" in page.run("document.getElementById('status').textContent")


@needs_browser
@pytest.mark.timeout(300)
def test_draw_move_resize_delete(page: Browser) -> None:
    page.run("document.getElementById('clear').click()")
    settle(page)
    assert not mask_of(page).any()
    pick_up(page, "box")
    page.drag(*(on_pane(page, *point) for point in ((400, 200), (500, 300), (720, 520))))
    settle(page)
    np.testing.assert_allclose(boxes_of(page), [[400, 200, 720, 520]], atol=3)
    drawn = core(boxes_of(page), MaskSpec())[0]
    assert drawn.max() == 1
    np.testing.assert_array_equal(mask_of(page), drawn)
    # It is selected: the handle in its lower right corner makes it larger.
    right, bottom = boxes_of(page)[0, 2:].tolist()
    page.drag(*(on_pane(page, right + by, bottom + by) for by in (0, 30, 80)))
    settle(page)
    np.testing.assert_allclose(boxes_of(page), [[400, 200, 800, 600]], atol=6)
    pick_up(page, "select")
    page.drag(*(on_pane(page, 600 + by, 300, "a") for by in (0, -50, -100)))
    settle(page)
    np.testing.assert_allclose(boxes_of(page), [[300, 200, 700, 600]], atol=9)
    np.testing.assert_array_equal(mask_of(page, "a"), core(boxes_of(page), MaskSpec.baseline())[0])
    page.press("Delete")
    settle(page)
    assert not len(boxes_of(page))
    page.until("!document.getElementById('undo').disabled")
    page.press("z", modifiers=2)
    settle(page)
    assert len(boxes_of(page)) == 1
    np.testing.assert_array_equal(mask_of(page), core(boxes_of(page), MaskSpec())[0])


@needs_browser
@pytest.mark.timeout(300)
def test_with_a_finger(page: Browser) -> None:
    """It moves what it is on, and scrolls the page elsewhere."""
    page.resize(390, 700, touch=True)
    settle(page)
    near = STREET.boxes[29]
    x, y = ((near[:2] + near[2:]) / 2).tolist()
    page.swipe(*(on_pane(page, x + by, y - by, "a") for by in (0, 30, 60, 90, 120)))
    settle(page)
    moved = boxes_of(page)
    np.testing.assert_allclose(moved[29], near + np.array([120, -120, 120, -120]), atol=8)
    np.testing.assert_array_equal(moved[:29], STREET.boxes[:29])
    np.testing.assert_array_equal(mask_of(page), core(moved, MaskSpec())[0])
    assert page.run("scrollY") == 0
    page.swipe(*(on_pane(page, 900, 100 - by, "a") for by in (0, 50, 150, 300, 500)))
    page.until("scrollY > 50")
    np.testing.assert_array_equal(boxes_of(page), moved)


@needs_browser
@pytest.mark.timeout(300)
def test_sliders(page: Browser) -> None:
    page.run("document.getElementById('option-base_sigma').focus()")
    for _ in range(5):
        page.press("ArrowRight")
    settle(page)
    sigma = inside(page, "state.sides.b.spec.base_sigma")
    assert sigma == pytest.approx(0.55)
    spec = MaskSpec(base_sigma=sigma)
    np.testing.assert_array_equal(mask_of(page), core(STREET.boxes, spec)[0])
    np.testing.assert_array_equal(mask_of(page, "a"), core(STREET.boxes, MaskSpec.baseline())[0])
    type_into(page, "#option-patch_size", 3)
    type_into(page, "#option-merge", "sum", "change")
    type_into(page, "#option-level_ranges", 60, "change")
    spec = spec.replace(patch_size=3, merge="sum", level_ranges=[(60, float("inf"))])
    np.testing.assert_array_equal(mask_of(page), core(STREET.boxes, spec)[0])
    # Patches of 3 cells beside those of one: by cells.
    page.press("4")
    settle(page)
    mask = core(STREET.boxes, spec)[0].repeat(3, axis=0).repeat(3, axis=1)[: MAP[0], : MAP[1]]
    difference = np.array(inside(page, "[...panes.d.result.mask.values]")).reshape(MAP)
    expected = mask - core(STREET.boxes, MaskSpec.baseline())[0]
    np.testing.assert_allclose(difference, expected, atol=1e-6)
    page.press("1")
    page.run("[...document.querySelectorAll('.pane-head .quiet')][1].click()")
    type_into(page, "#option-stride", 32)
    wide = generate_mask([STREET.boxes], SIZE, (23, 40))[0]
    np.testing.assert_array_equal(mask_of(page), wide)


@needs_browser
@pytest.mark.timeout(300)
def test_regions_and_weights(page: Browser) -> None:
    for tool, points in (
        ("ignore", ((100, 50), (200, 90), (900, 200))),
        ("valid", ((40, 40), (200, 90), (1200, 700))),
    ):
        pick_up(page, tool)
        page.drag(*(on_pane(page, *point) for point in points))
    type_into(page, "#option-balance", "object", "change")
    type_into(page, "#option-background_weight-exact", 0.25)
    type_into(page, "#boxes tbody tr:nth-child(2) td:nth-child(6) input", 3)
    ignored, valid = inside(page, "[state.ignored[0].xyxy, state.valid.xyxy]")
    weights = [1.0] * 30
    weights[1] = 3.0
    expected = core(
        STREET.boxes,
        MaskSpec(),
        weight_spec=WeightSpec(balance="object", background_weight=0.25),
        ignore=[[ignored]],
        valid_region=[valid],
        box_weights=[weights],
        return_weights=True,
    )
    np.testing.assert_array_equal(mask_of(page, "b", "weights"), expected[1][0])
    assert (expected[1] == 0).any()
    page.press("3")
    settle(page)
    page.hover(on_pane(page, 20, 20))
    page.until(
        "document.querySelector('[data-pane=b] + .readout').textContent.includes('weight 0.000')"
    )


@needs_browser
@pytest.mark.timeout(300)
def test_the_number_under_the_pointer_and_the_profile(page: Browser) -> None:
    mask, owner = core(STREET.boxes, MaskSpec(), return_owner=True)
    row, column = 45, 52
    assert 0 < mask[0, row, column] < 1
    page.hover(on_pane(page, 8 * column + 4, 8 * row + 4))
    words = f"{mask[0, row, column]:.3f} · owner {owner[0, row, column] + 1} · weight 1.000 · "
    shown = page.until(f"{READOUT}.startsWith({json.dumps(words)}) && {READOUT}")
    assert shown.endswith(f"row {row}, column {column}")
    # A line along a row of patches, across the picture: the curve's heights are the row's values.
    for k, value in enumerate((0, 8 * row + 4, 1280, 8 * row + 4), start=1):
        type_into(page, f"#ends input:nth-of-type({k})", value, "change")
    path = page.run("document.querySelector('#chart .b').getAttribute('d')")
    heights = [
        float(part.split()[1].split("H")[0]) for part in path.replace("M", "L").split("L")[1:]
    ]
    assert len(heights) == MAP[1]
    floor = page.run("document.getElementById('chart').clientHeight") - 20
    np.testing.assert_allclose((floor - np.array(heights)) / (floor - 10), mask[0, row], atol=1e-6)
    label = page.run("document.getElementById('chart').getAttribute('aria-label')")
    assert label.startswith("Profile: value along 1280 pixels, A up to 1.000")


@needs_browser
@pytest.mark.timeout(300)
def test_a_wrong_value_is_named_where_it_is(page: Browser) -> None:
    type_into(page, "#option-base_sigma-0", 0)
    page.until("!document.getElementById('option-base_sigma-error').hidden")
    reason = page.run("document.getElementById('option-base_sigma-error').textContent")
    assert reason == "must be a finite number above 0, got 0"
    assert page.run("document.getElementById('banner').textContent").startswith(
        "B: mask_spec.base_s"
    )
    assert inside(page, "panes.b.root.classList.contains('stale')")
    type_into(page, "#option-base_sigma-0", 0.4)
    page.until("document.getElementById('banner').hidden")
    np.testing.assert_array_equal(mask_of(page), core(STREET.boxes, MaskSpec(base_sigma=0.4))[0])
    # The browser's own log has the refusal, which is none of the page's errors.
    assert all("status of 400" in error for error in page.errors)
    page.errors.clear()


@needs_browser
@pytest.mark.timeout(300)
def test_what_is_copied(page: Browser, url: str, tmp_path: Path) -> None:
    type_into(page, "#option-base_sigma", 0.8)
    type_into(page, "#option-decay_type", "linear", "change")
    type_into(page, "#option-level_ranges-high", 200, "change")
    page.run("document.querySelector('#option-use_subpixel_offset').click()")
    settle(page)
    mask = mask_of(page)
    spec = MaskSpec(
        base_sigma=0.8, decay_type="linear", level_ranges=[(0, 200)], use_subpixel_offset=False
    )
    np.testing.assert_array_equal(mask, core(STREET.boxes, spec)[0])
    copied = page.run(f"""(async () => {{ {MODULES}
        const {{ pythonOf, jsonOf, commandOf, cocoOf }} =
          await import(new URL("snippets.js", location.href));
        const {{ linkOf }} = await import(new URL("model/link.js", location.href));
        const side = state.sides.b;
        return [pythonOf(side), jsonOf(side), commandOf(side), cocoOf(), linkOf()];
    }})()""")
    python, body, command, coco, link = copied
    program = f"{python}\nimport json, sys\njson.dump(mask[0].tolist(), sys.stdout)"
    # Coordinates are copied to the hundredth of a pixel.
    np.testing.assert_allclose(json.loads(printed("-c", program)), mask, atol=2e-3)
    assert json.loads(body)["mask_spec"]["level_ranges"] == [[0, 200]]
    answer = page.run(
        f"fetch('v1/masks', {{method: 'POST', headers: {{'content-type': 'application/json'}},"
        f" body: {json.dumps(body)}}}).then((answer) => answer.json())"
    )
    np.testing.assert_allclose(answer["masks"][0][0], mask, atol=2e-3)
    (tmp_path / "playground.json").write_text(coco)
    words = shlex.split(command.replace("\\\n", ""))
    assert words[:3] == ["cass", "mask", "playground.json"]
    done = ended("-m", "cass_cli", *words[1:], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "masks.npz") as file:
        np.testing.assert_allclose(file["masks"][0], mask, atol=2e-3)
    page.open("about:blank")
    page.open(link)
    settle(page)
    assert inside(page, "state.sides.b.spec.decay_type") == "linear"
    np.testing.assert_allclose(mask_of(page), mask, atol=2e-3)
    assert link.startswith(f"{url}#")


@needs_browser
@pytest.mark.timeout(300)
def test_a_large_picture_of_ones_own(page: Browser, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (75, 100, 3), np.uint8)
    Image.fromarray(pixels).resize((4000, 3000)).save(tmp_path / "own.jpg")
    page.drop_file(tmp_path / "own.jpg", (400, 300))
    page.until("document.getElementById('picture-name').textContent === 'own.jpg'")
    settle(page)
    assert not len(boxes_of(page))
    assert inside(page, "panes.a.picture.naturalWidth") == 4000
    # It opens with the tool that draws.
    page.drag(*(on_pane(page, *point) for point in ((1000, 800), (1500, 900), (3000, 2200))))
    settle(page)
    boxes = boxes_of(page)
    np.testing.assert_allclose(boxes, [[1000, 800, 3000, 2200]], atol=12)
    expected = generate_mask([boxes], (3000, 4000), (375, 500))[0]
    np.testing.assert_array_equal(mask_of(page), expected)
    (tmp_path / "text.jpg").write_text("no picture")
    page.choose_file("#file", tmp_path / "text.jpg")
    page.until("document.getElementById('toast').textContent.startsWith('text.jpg is not a pict')")
    assert len(boxes_of(page)) == 1


@needs_browser
@pytest.mark.timeout(400)
def test_a_server_that_goes_away(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(serving())
        port = first.address.rpartition(":")[2]
        url = stack.enter_context(playground("--server", first.address))
        page = stack.enter_context(browser(tmp_path / "profile"))
        page.open(url)
        settle(page)
        status = "document.getElementById('status').textContent"
        page.until(f"{status}.startsWith('{first.address} · cpu')")
        np.testing.assert_array_equal(mask_of(page), core(STREET.boxes, MaskSpec())[0])
        assert first.stop() == 0
        page.run("document.getElementById('option-base_sigma').focus()")
        page.press("ArrowRight")
        page.until("document.getElementById('banner').className === 'away'")
        assert "is tried again" in page.run("document.getElementById('banner').textContent")
        page.until(lambda: inside(page, "panes.b.root.classList.contains('stale')"), "stale")
        page.press("ArrowRight")  # what is set meanwhile is kept
        stack.enter_context(serving("--port", port))
        page.until("document.getElementById('banner').hidden")
        settle(page)
        sigma = inside(page, "state.sides.b.spec.base_sigma")
        assert sigma == pytest.approx(0.52)
        expected = core(STREET.boxes, MaskSpec(base_sigma=sigma))[0]
        np.testing.assert_array_equal(mask_of(page), expected)
        assert all("status of 503" in error for error in page.errors), page.errors


@needs_browser
@pytest.mark.timeout(300)
def test_by_keyboard_and_by_name(page: Browser) -> None:
    """Everything has a name for a screen reader, and boxes need no pointer."""
    nameless = []
    for node in page.send("Accessibility.getFullAXTree")["nodes"]:
        role = node.get("role", {}).get("value")
        roles = ("button", "slider", "spinbutton", "checkbox", "radio", "switch", "combobox")
        named = node.get("name", {}).get("value") or node.get("ignored")
        if role in (*roles, "textbox", "image", "dialog", "region") and not named:
            nameless.append(node)
    assert nameless == []
    # The way past the header leaves the address as it is, a link to what is set.
    address = page.until("location.hash")
    page.run("document.querySelector('.skip').click()")
    assert page.run("document.activeElement.id") == "options"
    assert page.run("location.hash") == address
    page.run("document.getElementById('clear').click()")
    page.run("document.querySelector('[data-pane=a]').focus()")
    page.press("n")
    page.until("document.activeElement.dataset.pane === 'a'")
    settle(page)
    (before,) = boxes_of(page)
    page.press("ArrowRight", modifiers=1)
    page.press("ArrowUp")
    page.press("ArrowDown", modifiers=8)
    settle(page)
    (after,) = boxes_of(page)
    assert (after - before).tolist() == [10, -1, 10, 0]
    np.testing.assert_array_equal(mask_of(page), core([after], MaskSpec())[0])
    page.press("Escape")
    page.press("ArrowRight")
    spoken = page.until(
        "document.getElementById('live').textContent.includes('row')"
        " && document.getElementById('live').textContent"
    )
    assert spoken.startswith("A 1.000, owner 1, weight 1.000, row 46, column 81. B 1.000")
    page.run("document.querySelector('#boxes tbody th button').click()")
    page.press("Delete")
    settle(page)
    assert not len(boxes_of(page))


@needs_browser
@pytest.mark.timeout(300)
@pytest.mark.parametrize("width", [320, 390, 820, 1100])
def test_small_screens(url: str, width: int, tmp_path: Path) -> None:
    """Nothing is wider than the window, and all is there in the dark too."""
    with browser(tmp_path / "profile") as page:
        page.resize(width, 800, touch=width < 800)
        page.prefer(prefers_color_scheme="dark")
        page.open(url)
        settle(page)
        assert page.run("document.documentElement.scrollWidth") <= width
        assert page.run("getComputedStyle(document.body).backgroundColor") == "rgb(14, 17, 23)"
        beyond = page.run(
            "[...document.querySelectorAll('main button, main input, main select')]"
            ".filter((e) => e.checkVisibility() && !e.closest('.unseen, .scroll, label'))"
            ".filter((e) => e.getBoundingClientRect().right > innerWidth).map((e) => e.id)"
        )
        assert beyond == []
        assert page.errors == []


@needs_browser
@pytest.mark.timeout(300)
def test_a_data_set(tmp_path: Path) -> None:
    hostile = "<img src=x onerror=document.title='owned'>"
    sizes = [(60, 80), (90, 50), (40, 200)]
    for i, (height, width) in enumerate(sizes):
        Image.new("RGB", (width, height), (0, 90 * i, 0)).save(tmp_path / f"{i}.png")
    content = {
        "images": [
            {"id": name, "file_name": f"{i}.png", "height": sizes[i][0], "width": sizes[i][1]}
            for i, name in enumerate(("first", hostile, "last"))
        ],
        "categories": [{"id": 1, "name": hostile}],
        "annotations": [
            {"id": 1, "image_id": hostile, "bbox": [5, 6, 20, 30], "category_id": 1},
            {"id": 2, "image_id": "last", "bbox": [50, 6, 60.5, 30], "category_id": 1},
        ],
    }
    (tmp_path / "file.json").write_text(json.dumps(content))
    options = "--annotations", tmp_path / "file.json", "--images", tmp_path
    with playground(*options) as url, browser(tmp_path / "profile") as page:
        page.open(url)
        settle(page)
        name = "document.getElementById('picture-name').textContent"
        assert page.run(name) == "first"
        page.press("]")
        page.press("]")
        page.until(f"{name} === 'last'")
        settle(page)
        expected = generate_mask([[[50, 6, 110.5, 36]]], (40, 200), (5, 25))[0]
        np.testing.assert_array_equal(mask_of(page), expected)
        type_into(page, "#wanted", hostile)
        page.run("document.getElementById('jump').requestSubmit()")
        page.until(f"{name} === {json.dumps(hostile)}")
        settle(page)
        assert page.run("document.getElementById('picture-place').textContent") == "2 of 3"
        assert page.run("document.title") == f"{hostile} – CASS playground"
        assert hostile in page.run("document.querySelector('#boxes tbody').textContent")
        assert page.run("document.images.length") == 4  # three panes and the mark above
        type_into(page, "#wanted", "nowhere")
        page.run("document.getElementById('jump').requestSubmit()")
        page.until("document.getElementById('toast').textContent.includes(\"'nowhere' is not\")")
        assert page.run(name) == hostile
        assert all("status of 404" in error for error in page.errors), page.errors
