"""The list of a directory: which replicas are on it, from when on, and its versions."""

from __future__ import annotations

import pytest

from cass_server.ray.registry import HEARTBEAT_SECONDS, ROUND_SECONDS, Roster

# 5 s, in rounds.
PATIENCE = 10


def settled() -> Roster:
    roster = Roster()
    rounds(roster, PATIENCE)
    return roster


def rounds(roster: Roster, number: int) -> None:
    for _ in range(number):
        roster.end_round()


def addresses(roster: Roster) -> tuple[str, ...]:
    assert roster.listing is not None
    return roster.listing.addresses


def version(roster: Roster) -> int:
    assert roster.listing is not None
    return roster.listing.version


def test_times() -> None:
    assert PATIENCE * ROUND_SECONDS == 5
    # A replica reports each second: four reports may be missed.
    assert HEARTBEAT_SECONDS == 1


def test_no_list_before_all_have_had_time_to_report() -> None:
    roster = Roster()
    roster.heartbeat("a", "10.0.0.1:1")
    rounds(roster, PATIENCE - 1)
    assert roster.listing is None
    roster.heartbeat("b", "10.0.0.2:1")
    roster.end_round()
    assert addresses(roster) == ("10.0.0.1:1", "10.0.0.2:1")


def test_sorted_and_each_once() -> None:
    roster = settled()
    for replica, address in (("a", "10.0.0.2:1"), ("b", "10.0.0.1:1"), ("c", "10.0.0.2:1")):
        roster.heartbeat(replica, address)
    assert addresses(roster) == ("10.0.0.1:1", "10.0.0.2:1")
    roster.remove("c")
    assert addresses(roster) == ("10.0.0.1:1", "10.0.0.2:1")
    roster.remove("b")
    roster.remove("unknown")
    assert addresses(roster) == ("10.0.0.2:1",)


def test_silent_replicas_are_left_out() -> None:
    roster = settled()
    roster.heartbeat("a", "10.0.0.1:1", "10.0.0.1:7")
    roster.heartbeat("b", "10.0.0.2:1")
    assert roster.metrics == ["10.0.0.1:7"]
    rounds(roster, PATIENCE)
    assert addresses(roster) == ("10.0.0.1:1", "10.0.0.2:1")
    roster.heartbeat("b", "10.0.0.2:1")
    roster.end_round()
    assert addresses(roster) == ("10.0.0.2:1",)


def test_another_version_for_another_list_only() -> None:
    roster = settled()
    seen = [version(roster)]
    roster.heartbeat("a", "10.0.0.1:1")
    seen.append(version(roster))
    roster.heartbeat("a", "10.0.0.1:1")
    roster.end_round()
    assert version(roster) == seen[-1]
    roster.remove("a")
    seen.append(version(roster))
    assert len(set(seen)) == 3
    assert 0 not in seen


@pytest.mark.parametrize("_", range(3))
def test_no_version_of_one_before_a_restart(_: int) -> None:
    assert abs(version(settled()) - version(settled())) > 1000
