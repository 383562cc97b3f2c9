"""Pages of the public modules, made from their docstrings, which have to be there.

A name is public that a module's ``__all__`` has or, in a module without one, that it defines
without an underscore in front; of a class, so are its methods, properties and attributes.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import griffe

MODULES = {
    "cass_core": "masks and losses in the process",
    "cass_core.plotting.figures": "figures of masks",
    "cass_core.plotting.predictions": "figures of what a predictor keeps",
    "cass_core.synthetic": "drawn street scenes",
    "cass_client": "the client",
    "cass_client.torch": "the client in PyTorch's loaders and loops",
    "cass_client.ray": "the client in Ray Data",
}

Read = griffe.Object | griffe.Alias
PACKAGES = ("cass", "cass_core", "cass_client")


class UndocumentedError(Exception):
    """Public names have no docstring, or one that does not fit."""


def load(
    modules: Iterable[str], packages: Iterable[str], folders: Sequence[Path]
) -> dict[str, Read]:
    """The modules, read without being imported; packages are those that their names come from."""
    extensions = griffe.load_extensions(f"{Path(__file__).with_name('docstrings.py')}:Docstrings")
    loader = griffe.GriffeLoader(extensions=extensions, search_paths=folders)
    for package in packages:
        loader.load(package)
    loader.resolve_aliases(external=False)
    return {name: loader.modules_collection[name] for name in modules}


def public_names(module: Read) -> list[str]:
    """The names that a module's users may use, in order."""
    if module.exports is not None:
        return sorted((str(name) for name in module.exports), key=str.lower)
    own = [m for m in module.members.values() if not m.is_alias and not m.is_module]
    return [m.name for m in own if not m.name.startswith("_") and (m.is_function or m.is_class)]


def public_objects(module: Read) -> Iterator[Read]:
    """The public names' objects, and the public members of classes among them."""
    for name in public_names(module):
        found = module[name]
        yield found
        if found.is_class:
            yield from (m for m in found.members.values() if _is_public_member(m))


def _is_public_member(member: Read) -> bool:
    # Attributes are described under `Attributes:` in the docstring of their class.
    return not member.name.startswith("_") and not member.is_alias and (
        member.is_function or "property" in member.labels
    )  # fmt: skip


def undocumented(modules: dict[str, Read]) -> list[str]:
    """What is wrong with the docstrings of public names, a line each."""
    wrong = []
    for name, module in modules.items():
        if not module.docstring:
            wrong.append(f"{name}: the module has no docstring")
        for found in public_objects(module):
            if not found.docstring:
                wrong.append(f"{name}: {found.path} has no docstring")
            else:
                wrong += [f"{name}: {message}" for message in _misfits(found)]
    return wrong


class _Messages(logging.Handler):
    """Keeps what griffe has to say of a docstring."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


def _misfits(found: Read) -> list[str]:
    """Parameters that a docstring names and the signature does not have, and the like."""
    handler, logger = _Messages(), logging.getLogger("griffe")
    logger.addHandler(handler)
    try:
        assert found.docstring is not None
        found.docstring.parse(griffe.Parser.google, warn_missing_types=False)
    finally:
        logger.removeHandler(handler)
    return handler.messages


def pages(modules: dict[str, Read]) -> dict[str, str]:
    """A page for each module, by its name on the site.

    Raises:
        UndocumentedError: a public name has no docstring.
    """
    wrong = undocumented(modules)
    if wrong:
        raise UndocumentedError("\n".join(wrong))
    made = {}
    for name, module in modules.items():
        assert module.docstring is not None
        parts = [f"# `{name}`: {MODULES.get(name, 'its names')}", module.docstring.value]
        parts += [f"::: {name}.{public}" for public in public_names(module)]
        made[f"api/{name}.md"] = "\n\n".join(parts) + "\n"
    return made
