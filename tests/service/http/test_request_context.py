"""What is to be cancelled when a caller leaves, and that nothing is kept for it afterwards."""

from __future__ import annotations

import pytest

from service.http.request_context import RequestContext


def test_what_runs_is_cancelled_when_the_caller_leaves_or_has_left() -> None:
    context, cancelled = RequestContext("", 0.0), list[str]()

    with context.leaving(lambda: cancelled.append("first")):
        context.disconnect()
    with context.leaving(lambda: cancelled.append("second")):
        pass

    assert cancelled == ["first", "second"]


def test_nothing_that_was_computed_is_kept_for_a_caller_who_may_leave() -> None:
    context = RequestContext("", 0.0)

    def cancel() -> None: ...

    with context.leaving(cancel):
        with context.leaving(lambda: None):
            pass
        assert context.on_disconnect is cancel
    with pytest.raises(ValueError, match="network"), context.leaving(cancel):
        raise ValueError("network")

    assert context.on_disconnect is None
