"""Errors of a system that gives a process no more memory, threads or files."""

from __future__ import annotations

import contextlib
import errno
import os
from typing import NoReturn

_FILES = "too many open files; see ulimit -n"
_MEMORY = "too little memory; see ulimit -v, and the container's limit"
_THREADS = "no more threads can be started; see ulimit -u and -v, and the container's limits"
_BY_NUMBER = {errno.EMFILE: _FILES, errno.ENFILE: _FILES, errno.ENOMEM: _MEMORY}
# What a loader of libraries and Python's threads say in words alone.
_BY_WORDS = {
    "Too many open files": _FILES,
    "failed to map segment": _MEMORY,
    "annot allocate memory": _MEMORY,
    "can't start new thread": _THREADS,
    "error return without exception set": _MEMORY,  # NumPy, as it is imported
}


def exhausted(error: BaseException | None) -> str:
    """What there is too little of, if that has led to the error; else empty.

    Example:
        >>> exhausted(OSError(24, "Too many open files"))
        'too many open files; see ulimit -n'
    """
    while error is not None:
        if isinstance(error, MemoryError):
            return _MEMORY
        if isinstance(error, OSError) and error.errno in _BY_NUMBER:
            return _BY_NUMBER[error.errno]
        if isinstance(error, OSError | ImportError | RuntimeError | SystemError):
            for words, reason in _BY_WORDS.items():
                if words in str(error):
                    return reason
        error = error.__cause__ or error.__context__
    return ""


def exit_exhausted(error: Exception) -> NoReturn:
    """Ends the process with a line if it has too little of something; else raises the error."""
    reason = exhausted(error)
    if not reason:
        raise error
    with contextlib.suppress(OSError):
        os.write(2, f"cass-server: {reason}\n".encode())
    os._exit(1)  # Python's way out may need what is lacking
