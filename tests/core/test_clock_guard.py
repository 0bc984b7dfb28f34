"""When a store's clock may say that a hold is overdue."""

from gateway.core.clock_guard import ClockGuard


def test_a_new_clock_is_trusted_after_one_lifetime() -> None:
    guard = ClockGuard(30_000)
    assert not guard.trusted({"a": 1_000_000}, 0)
    assert not guard.trusted({"a": 1_029_000}, 29_000)
    assert guard.trusted({"a": 1_030_000}, 30_000)


def test_a_slow_drift_is_no_jump() -> None:
    guard = ClockGuard(30_000)
    assert not guard.trusted({"a": 0}, 0)
    assert all(guard.trusted({"a": turn * 61_500}, turn * 60_000) for turn in range(1, 100))


def test_a_jump_either_way_costs_one_lifetime() -> None:
    for jump_ms in (3_600_000, -3_600_000, 2_001, -2_001):
        guard = ClockGuard(30_000)
        guard.trusted({"a": 0}, 0)
        assert guard.trusted({"a": 30_000}, 30_000)
        assert not guard.trusted({"a": 31_000 + jump_ms}, 31_000)
        assert not guard.trusted({"a": 60_999 + jump_ms}, 60_999)
        assert guard.trusted({"a": 61_000 + jump_ms}, 61_000)


def test_a_server_that_joins_costs_one_lifetime_and_one_that_leaves_none() -> None:
    guard = ClockGuard(30_000)
    guard.trusted({"a": 0, "b": 500_000}, 0)
    assert guard.trusted({"a": 30_000, "b": 530_000}, 30_000)
    assert guard.trusted({"a": 31_000}, 31_000)
    assert not guard.trusted({"a": 32_000, "c": 0}, 32_000)
