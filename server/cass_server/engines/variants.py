"""The variants of the Triton kernels that a process has, and those that it lacks.

Triton compiles a kernel anew for each dtype, flag and kind of width that it is launched with, which
takes seconds. So a launch that needs a variant that is neither in the process nor in Triton's cache
on the disk does not compile it: it raises `NotCompiled`, is made again once another process has
put the variant into that cache, and holds nothing up meanwhile.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib
import json
import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import triton
from triton import knobs
from triton._C.libtriton import get_cache_invalidating_env_vars
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, make_backend
from triton.runtime.cache import get_cache_key, get_cache_manager

from cass_server.exceptions import NotCompiled

Origin: TypeAlias = Literal["cache", "compiled"]

_log = logging.getLogger(__name__)

# As in Triton's own `compile`.
_NAME_LENGTH = 150


@dataclass(frozen=True, slots=True, eq=False)
class Variant:
    """What Triton compiles for a launch; can be pickled.

    Attributes:
        module, name: of the kernel's function.
        signature, constants, attributes: types of the arguments, what is compiled in, and what is
            known of pointers and numbers.
        options: of the compiler.
        target: backend, architecture and threads of a warp.
    """

    module: str
    name: str
    signature: dict[str, Any]
    constants: dict[Any, Any]
    attributes: dict[Any, Any]
    options: dict[str, Any]
    target: tuple[str, int, int]

    @property
    def key(self) -> str:
        """What Triton's cache on the disk has it under."""
        backend = make_backend(GPUTarget(*self.target))
        options = backend.parse_options(dict(self.options))
        variables = get_cache_invalidating_env_vars()
        key = get_cache_key(self._source(), backend, options, env_vars=variables)
        return hashlib.sha256(key.encode()).hexdigest()

    def is_cached(self, key: str) -> bool:
        """Whether Triton's cache on the disk has it."""
        name = f"{self._source().name[:_NAME_LENGTH]}.json"
        group = get_cache_manager(key).get_group(name)
        return group is not None and name in group

    def compile(self) -> None:
        """Put it into Triton's cache on the disk, unless it is there; needs no GPU."""
        triton.compile(self._source(), target=GPUTarget(*self.target), options=dict(self.options))

    def _source(self) -> Any:
        function = getattr(importlib.import_module(self.module), self.name)
        return ASTSource(function, self.signature, self.constants, self.attributes)


class Variants:
    """Sees to it that no launch of this thread compiles.

    Args:
        compile: puts a variant into Triton's cache, in another process; returns when it is there,
            or cannot be put there.
        on_variant: called with the origin of each variant, once.
    """

    def __init__(
        self, compile: Callable[[Variant], None], on_variant: Callable[[Origin], None]
    ) -> None:
        self._compile = compile
        self._on_variant = on_variant
        self._lock = threading.Lock()
        # Those that may be loaded, or compiled in this process if all else fails.
        self._allowed: set[str] = set()
        self._pending: dict[str, threading.Event] = {}

    @contextlib.contextmanager
    def checked(self) -> Iterator[None]:
        """Within it a launch by this thread raises `NotCompiled` rather than compile a kernel."""
        _install()
        _checking.variants = self
        try:
            yield
        finally:
            _checking.variants = None

    def check(self, variant: Variant) -> None:
        """Raises `NotCompiled` for a variant that is not in Triton's cache."""
        key = variant.key
        with self._lock:
            if key in self._allowed:
                return
        if variant.is_cached(key):
            self._allow(key, "cache")
            return
        raise NotCompiled(variant.name, lambda: self._provide(key, variant))

    def _provide(self, key: str, variant: Variant) -> None:
        """Compile a variant, or wait for another thread that does."""
        with self._lock:
            pending = self._pending.get(key)
            if pending is None:
                self._pending[key] = done = threading.Event()
        if pending is not None:
            pending.wait()
            return
        try:
            if key not in self._allowed:
                self._compile(variant)
                self._allow(key, "compiled")
        finally:
            with self._lock:
                del self._pending[key]
            done.set()

    def _allow(self, key: str, origin: Origin) -> None:
        with self._lock:
            if key in self._allowed:
                return
            self._allowed.add(key)
        self._on_variant(origin)


_checking = threading.local()


def _check(*, fn: Any, compile: dict[str, Any], **_: Any) -> bool:
    """Triton's hook: called where a launch finds no kernel in the process."""
    variants: Variants | None = getattr(_checking, "variants", None)
    if variants is None:
        return False  # go on
    try:
        variants.check(_variant_of(fn, compile))
    except NotCompiled:
        raise
    except Exception:  # another Triton: the launch compiles what it needs
        _log_once()
    return False


@functools.cache
def _log_once() -> None:
    _log.exception("kernels cannot be looked up, and are compiled where they are needed")


def _install() -> None:
    if knobs.runtime.jit_cache_hook is None:
        knobs.runtime.jit_cache_hook = _check


def _variant_of(fn: Any, compile: dict[str, Any]) -> Variant:
    known = json.loads(compile["specialization_data"])
    # JSON has no tuples.
    options = {k: tuple(v) if isinstance(v, list) else v for k, v in known["options"].items()}
    target = known["target"]
    return Variant(
        fn.module,
        fn.name,
        dict(compile["signature"]),
        dict(compile["constants"]),
        dict(compile["configs"][0]),
        options,
        (target["backend"], target["arch"], target["warp_size"]),
    )
