from __future__ import annotations

from structlog.testing import capture_logs

from medic.ratelimit.circuit import PAUSE, Circuit


def test_after_a_pause_one_caller_at_a_time_tries_again() -> None:
    circuit = Circuit()
    assert circuit.lets_through(now=100.0)
    circuit.failed(OSError(), now=100.0)
    assert not circuit.lets_through(now=100.0 + PAUSE - 0.01)
    assert circuit.lets_through(now=100.0 + PAUSE)
    assert not circuit.lets_through(now=100.0 + PAUSE)
    assert circuit.lets_through(now=100.0 + 2 * PAUSE)
    circuit.succeeded()
    assert circuit.lets_through(now=100.0 + 2 * PAUSE)


def test_an_outage_is_one_warning_and_one_info_without_the_address() -> None:
    circuit = Circuit()
    with capture_logs() as lines:
        for _ in range(5):
            circuit.failed(OSError("redis://:hunter2@host"), now=1.0)
        for _ in range(5):
            circuit.succeeded()
    assert [line["log_level"] for line in lines] == ["warning", "info"]
    assert "hunter2" not in str(lines)


def test_a_clock_that_steps_back_does_not_keep_the_circuit_open() -> None:
    circuit = Circuit()
    circuit.failed(OSError(), now=10_000.0)
    assert circuit.lets_through(now=100.0)
