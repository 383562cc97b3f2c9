"""What the thread that computes asks about a call over HTTP, whose end the event loop reports."""

from __future__ import annotations

from cass_server.http.context import HttpContext


def test_a_callback_is_called_once_at_the_end() -> None:
    context, called = HttpContext(), list[str]()
    assert context.add_callback(lambda: called.append("first"))
    context.cancel()
    assert not called
    context.end()
    context.end()
    assert called == ["first"]


def test_after_the_end_a_callback_is_the_callers() -> None:
    """Who adds one then is told so, and calls it; `end` does not."""
    context, called = HttpContext(), list[str]()
    context.cancel()
    assert not context.add_callback(lambda: called.append("cancelled"))
    context.end()
    assert not context.add_callback(lambda: called.append("ended"))
    context.end()
    assert not called


def test_a_callback_may_ask_the_context() -> None:
    context, seen = HttpContext(), list[bool]()
    context.add_callback(lambda: seen.append(context.add_callback(lambda: None)))
    context.end()
    assert seen == [False]
