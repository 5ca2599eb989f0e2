"""The filter, run instruction by instruction as the kernel would, for both machines."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medic.sandbox.seccomp import ABSENT, ALLOW, AUDIT_ARCH, DENIED, JUDGED, KILL_PROCESS, REFUSE, build

MACHINES = ["x86_64", "aarch64"]
HEADERS = {
    "x86_64": (Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"), r"#define __NR_(\w+)\s+(\d+)"),
    "aarch64": (Path("/usr/include/asm-generic/unistd.h"), r"#define __NR(?:3264)?_(\w+)\s+(\d+)"),
}


def verdict(program: bytes, arch: int, number: int, *args: int) -> int:
    """Interpret classic BPF over ``struct seccomp_data``."""
    data = struct.pack("<IIQ6Q", number, arch, 0, *(args + (0,) * 6)[:6])
    accumulator = at = 0
    while True:
        code, yes, no, value = struct.unpack_from("<HBBI", program, at * 8)
        at += 1
        match code:
            case 0x20:
                (accumulator,) = struct.unpack_from("<I", data, value)
            case 0x54:
                accumulator &= value
            case 0x06:
                return int(value)
            case 0x15:
                at += yes if accumulator == value else no
            case 0x35:
                at += yes if accumulator >= value else no
            case 0x45:
                at += yes if accumulator & value else no
            case _:
                pytest.fail(f"unknown instruction {code:#x}")


def judge(machine: str, name: str, *args: int, network: bool = False) -> int:
    numbers = DENIED.get(name) or JUDGED[name]
    number = numbers[MACHINES.index(machine)]
    assert number is not None
    return verdict(build(machine, network=network), AUDIT_ARCH[machine], number, *args)


@pytest.mark.parametrize("machine", MACHINES)
def test_every_denied_call_is_refused(machine: str) -> None:
    for network in (True, False):
        for name, numbers in DENIED.items():
            if numbers[MACHINES.index(machine)] is not None:
                assert judge(machine, name, network=network) == REFUSE, name


@pytest.mark.parametrize("machine", MACHINES)
def test_sockets_are_made_only_with_network_and_only_for_ip(machine: str) -> None:
    unix, inet, inet6, netlink, packet, vsock = 1, 2, 10, 16, 17, 40
    for family in (unix, inet, inet6, netlink, packet, vsock):
        assert judge(machine, "socket", family) == REFUSE
        allowed = family in {inet, inet6}
        assert judge(machine, "socket", family, network=True) == (ALLOW if allowed else REFUSE)


@pytest.mark.parametrize("machine", MACHINES)
def test_socket_pairs_are_streams(machine: str) -> None:
    stream, datagram, cloexec = 1, 2, 0o2000000
    assert judge(machine, "socketpair", 1, stream) == ALLOW
    assert judge(machine, "socketpair", 1, stream | cloexec) == ALLOW
    assert judge(machine, "socketpair", 1, datagram) == REFUSE
    assert judge(machine, "socketpair", 1, datagram | cloexec) == REFUSE


@pytest.mark.parametrize("machine", MACHINES)
def test_processes_and_threads_are_made_but_no_namespaces(machine: str) -> None:
    sigchld, thread = 17, 0x3D0F00
    assert judge(machine, "clone", sigchld) == ALLOW
    assert judge(machine, "clone", thread) == ALLOW
    for namespace in (0x10000000, 0x20000000, 0x40000000, 0x20000, 0x08000000, 0x04000000, 0x02000000):
        assert judge(machine, "clone", namespace | sigchld) == REFUSE
    assert judge(machine, "clone3") == ABSENT


@pytest.mark.parametrize("machine", MACHINES)
def test_the_leash_cannot_be_taken_off(machine: str) -> None:
    assert judge(machine, "prctl", 1) == REFUSE
    assert judge(machine, "prctl", 15) == ALLOW


@pytest.mark.parametrize("machine", MACHINES)
def test_calls_of_another_architecture_kill(machine: str) -> None:
    for arch in {*AUDIT_ARCH.values(), 0x40000003, 0x40000028} - {AUDIT_ARCH[machine]}:
        assert verdict(build(machine, network=True), arch, 0) == KILL_PROCESS


def test_the_x32_table_kills() -> None:
    assert verdict(build("x86_64", network=True), AUDIT_ARCH["x86_64"], 0x40000000 | 41) == KILL_PROCESS


@given(number=st.integers(0, 600), machine=st.sampled_from(MACHINES), network=st.booleans())
def test_every_other_call_passes(number: int, machine: str, *, network: bool) -> None:
    column = MACHINES.index(machine)
    if number not in {numbers[column] for numbers in (*DENIED.values(), *JUDGED.values())}:
        assert verdict(build(machine, network=network), AUDIT_ARCH[machine], number, 2) == ALLOW


@pytest.mark.parametrize("machine", MACHINES)
def test_the_numbers_are_those_of_the_kernels_headers(machine: str) -> None:
    header, pattern = HEADERS[machine]
    if not header.exists():
        pytest.skip(f"{header} is not installed")
    known = {name: int(number) for name, number in re.findall(pattern, header.read_text())}
    column = MACHINES.index(machine)
    ours = {name: numbers[column] for name, numbers in (DENIED | JUDGED).items()}
    assert {name: number for name, number in ours.items() if number != known.get(name)} == {}


def test_an_unknown_machine_has_no_filter() -> None:
    with pytest.raises(KeyError, match="riscv64"):
        build("riscv64", network=False)
