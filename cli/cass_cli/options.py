"""Options that several commands share."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import inspect
import json
import re
from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from cass_core.errors import InvalidRequest
from cass_core.specs import MaskSpec


class Preset(StrEnum):
    """Options to start from."""

    recommended = "recommended"
    improved = "improved"
    baseline = "baseline"
    cas_detr = "cas_detr"


COCO_FILE: dict[str, Any] = {
    "metavar": "FILE.json",
    "exists": True,
    "dir_okay": False,
    "readable": True,
}
"""Of every argument and option that is an annotations file."""
CocoArgument = Annotated[
    Path, typer.Argument(**COCO_FILE, help="COCO object-detection annotations.")
]
ImagesOption = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        exists=True,
        file_okay=False,
        help="Folder with the pictures; without it, figures have a plain canvas.",
    ),
]
StrideOption = Annotated[
    int,
    typer.Option(
        metavar="N",
        min=1,
        help="Pixels per cell; the feature map is the image divided by it, rounded up.",
    ),
]
LimitOption = Annotated[
    int | None, typer.Option(metavar="N", min=1, help="Use the first N images of a file only.")
]
SkipInvalidOption = Annotated[
    bool,
    typer.Option("--skip-invalid", help="Leave out entries that cannot be used, and report them."),
]
PresetOption = Annotated[Preset, typer.Option(help="Options to start from.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="NAME=VALUE", help="Change an option, as in min_size=2; repeatable."
    ),
]


def takes(parameter: str, kind: type) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Gives a command the fields of a dataclass as options, in place of the parameter of it.

    Example:
        >>> @dataclasses.dataclass
        ... class Size:
        ...     height: int
        ...     width: int = 1
        >>> @takes("size", Size)
        ... def area(*, scale: int = 1, size: Size) -> None:
        ...     print(scale * size.height * size.width)
        >>> area(height=2, scale=3)
        6
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        fields = inspect.signature(kind, eval_str=True).parameters
        own = inspect.signature(command, eval_str=True)
        parameters = [
            p.replace(kind=inspect.Parameter.KEYWORD_ONLY)
            for name, own_one in own.parameters.items()
            for p in (fields.values() if name == parameter else [own_one])
        ]

        @functools.wraps(command)
        def with_options(**values: Any) -> None:
            given = {name: values.pop(name) for name in fields if name in values}
            command(**{parameter: kind(**given)}, **values)

        # Typer reads both.
        with_options.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
        with_options.__annotations__ = {p.name: p.annotation for p in parameters}
        return with_options

    return decorate


def printable(text: str) -> str:
    """Text on one line, in which control characters do nothing to a terminal.

    Example:
        >>> print(printable("a" + chr(27) + "[31m"))
        a\\x1b[31m
    """
    return re.sub(r"[\x00-\x1f\x7f-\x9f]", lambda c: c[0].encode("unicode_escape").decode(), text)


def add_command(app: typer.Typer, command: Callable[..., None]) -> None:
    """Add a command under its name; the list of commands has its first sentences, uncut."""
    summary = (inspect.getdoc(command) or "").partition("\n\n")[0]
    app.command(short_help=" ".join(summary.split()))(command)


def make_spec(preset: Preset, changes: Sequence[str] | None) -> MaskSpec:
    """The preset with ``NAME=VALUE`` changes, values as JSON or plain text; 1.0 is 1.

    Raises:
        InvalidRequest: an option does not exist or has a wrong value.

    Example:
        >>> make_spec(Preset.baseline, ["patch_size=2", "merge=sum"]).merge
        'sum'
    """
    spec: MaskSpec = getattr(MaskSpec, preset.value)()
    names = [field.name for field in dataclasses.fields(MaskSpec)]
    values = {}
    for change in changes or ():
        name, _, text = change.partition("=")
        require_known("--set", name, names, change)
        value = parse_value(text)
        whole = isinstance(value, float) and value.is_integer() and name == "patch_size"
        values[name] = int(value) if whole else value
    return spec.replace(**values)


def parse_value(text: str) -> Any:
    """A value as JSON or as Python writes it, or the text itself.

    Example:
        >>> parse_value("[0.4, 1]"), parse_value("False"), parse_value("max")
        ([0.4, 1], False, 'max')
    """
    try:
        return json.loads(text)
    except ValueError:  # not JSON, or a number of thousands of digits
        return {"True": True, "False": False}.get(text, text)


def require_known(option: str, name: str, known: Iterable[str], given: str | None = None) -> None:
    """Rejects a name that is not among the known ones.

    Args:
        option: the command line's option.
        name: what was given, or the part before ``=`` of what was given.
        known: the names that there are.
        given: ``NAME=VALUE`` as it was given, where a value is needed.

    Raises:
        InvalidRequest: with the name that was probably meant.

    Example:
        >>> require_known("--set", "patchsize", ["patch_size"])
        Traceback (most recent call last):
        cass_core.errors.InvalidRequest: --set: 'patchsize' is not known, did you mean
        'patch_size'; one of 'patch_size'
    """
    known = list(known)
    if name in known:
        if given is not None and "=" not in given:
            raise InvalidRequest(option, f"{given!r} has no value: write {name}=VALUE")
        return
    near = difflib.get_close_matches(name, known, n=1)
    meant = f", did you mean {near[0]!r}" if near else ""
    raise InvalidRequest(
        option, f"{name!r} is not known{meant}; one of {', '.join(map(repr, known))}"
    )


def feature_map(size: Sequence[int], stride: int) -> tuple[int, int]:
    """Cells (h, w) of an image of (H, W) pixels, rounded up.

    Example:
        >>> feature_map((380, 640), 32)
        (12, 20)
    """
    return -(-int(size[0]) // stride), -(-int(size[1]) // stride)


def patch_pixels(
    size: Sequence[int], cells: tuple[int, int], patch_size: int
) -> tuple[float, float]:
    """Height and width of a patch in pixels of an image of (H, W) on a map of (h, w) cells.

    Example:
        >>> patch_pixels((380, 640), (12, 20), 1)[1]
        32.0
    """
    height, width = cells
    return (
        int(size[0]) / height * min(patch_size, height),
        int(size[1]) / width * min(patch_size, width),
    )


def report_without_patch(count: int, boxes: int, spec: MaskSpec, stride: int) -> None:
    """Say on standard error how many boxes have no patch, and what gives them one."""
    if count:
        remedy = "--set patch_size=1" if spec.patch_size > 1 else "a smaller --stride"
        typer.echo(
            f"{count} of {boxes} boxes have no patch: patch_size is {spec.patch_size} at stride "
            f"{stride}, and no patch's centre lies in them; {remedy} gives one to those that are "
            "in their image",
            err=True,
        )
