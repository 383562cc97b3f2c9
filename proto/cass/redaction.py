"""Keeps secrets that were given in the wrong place out of messages: passwords, tokens, keys."""

from __future__ import annotations

import os
import re

# http://user:password@host, token@host, user:password@host:50051
_USERINFO = re.compile(r"(?<=://)[^\s/]*@|[^\s/'\"]+:[^\s/'\"]*@")
_SHORTEST_TOKEN = 16
"""Characters that a server wants of a token."""


def without_userinfo(text: str) -> str:
    """A text without the names and passwords that its URLs have before the host.

    Example:
        >>> without_userinfo("no answer from http://me:secret@collector:4318/v1")
        'no answer from http://…@collector:4318/v1'
    """
    return _USERINFO.sub("…@", text) if "@" in text else text


def shown_path(path: str | os.PathLike[str]) -> str:
    """The path of a file that cannot be read, unless it may be the secret that the file is to hold.

    Example:
        >>> shown_path("/etc/cass/tokens"), shown_path("tokens")
        ('/etc/cass/tokens', 'tokens')
        >>> shown_path("c2VjcmV0LXRva2VuLW9mLW1pbmU=")
        '(not shown: this may be the secret, and not the path of its file)'
    """
    text = os.fspath(path)
    folder = os.path.dirname(text)
    if "-----BEGIN" not in text and (
        len(text) < _SHORTEST_TOKEN or text.startswith(os.sep) or (folder and os.path.isdir(folder))
    ):
        return text
    return "(not shown: this may be the secret, and not the path of its file)"
