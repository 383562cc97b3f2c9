"""Options that several commands share."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import json
from collections.abc import Callable, Sequence
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


CocoArgument = Annotated[
    Path,
    typer.Argument(
        metavar="FILE.json",
        exists=True,
        dir_okay=False,
        readable=True,
        help="COCO object-detection annotations.",
    ),
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
        min=1, help="Pixels per cell; the feature map is the image divided by it, rounded up."
    ),
]
PresetOption = Annotated[Preset, typer.Option(help="Options to start from.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="Change an option, as in merge=sum."),
]


def takes(parameter: str, kind: type) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Gives a command the fields of a dataclass as options, in place of the parameter of it."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        fields = inspect.signature(kind, eval_str=True).parameters
        own = inspect.signature(command, eval_str=True)
        parameters = [p for name, p in own.parameters.items() if name != parameter]
        parameters += [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in fields.values()]

        @functools.wraps(command)
        def with_options(**values: Any) -> None:
            command(**{parameter: kind(**{name: values.pop(name) for name in fields})}, **values)

        # Typer reads both.
        with_options.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
        with_options.__annotations__ = {p.name: p.annotation for p in parameters}
        return with_options

    return decorate


def make_spec(preset: Preset, changes: Sequence[str] | None) -> MaskSpec:
    """The preset with ``NAME=VALUE`` changes, values as JSON or plain text.

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
        name, equals, text = change.partition("=")
        if not equals or name not in names:
            raise InvalidRequest("--set", f"{change!r} must be one of {', '.join(names)}, =VALUE")
        try:
            values[name] = json.loads(text)
        except ValueError:  # not JSON, or a number of thousands of digits
            values[name] = text
    return spec.replace(**values)


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
