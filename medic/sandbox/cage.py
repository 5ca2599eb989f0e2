"""The walls around a script, each put up by the process that is about to become it.

Sources: Linux Documentation/userspace-api/landlock.rst, no_new_privs.rst, seccomp_filter.rst, and
prctl(2), setrlimit(2), capabilities(7).  Imported by the launcher without the package, so standard
library only.
"""
# os.path, since pathlib would double the launcher's start:
# ruff: noqa: PTH112, PTH116, PTH120, PTH123

from __future__ import annotations

import ctypes
import math
import os
import resource
import struct
import sys
from typing import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING or __name__ == "medic.sandbox.cage":
    from medic.sandbox import seccomp, tree
else:
    import seccomp
    import tree


class Order(NamedTuple):
    """What the launcher is told, over a pipe.  Sizes in bytes, times in seconds."""

    argv: list[str]
    env: dict[str, str]
    folder: str  # holds script and work folder
    script: str
    work: str
    readable: list[str]  # beside `READABLE`: the interpreter
    network: bool
    required: bool
    timeout: float
    grace: float
    memory: int
    file_size: int
    disk: int
    open_files: int
    processes: int


class Refused(Exception):
    """A wall cannot be put up here; the text says which and why."""


READABLE = (
    "/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/nix/store",
    "/dev/zero", "/dev/random", "/dev/urandom",
    "/etc/ssl/certs", "/etc/ssl/cert.pem", "/etc/ssl/ca-bundle.pem", "/etc/ssl/openssl.cnf",
    "/etc/pki/tls/certs", "/etc/pki/tls/cert.pem", "/etc/pki/tls/openssl.cnf", "/etc/pki/ca-trust",
    "/etc/ca-certificates", "/etc/ca-certificates.conf",
    "/etc/resolv.conf", "/etc/hosts", "/etc/host.conf", "/etc/gai.conf", "/etc/nsswitch.conf",
    "/etc/services", "/etc/protocols", "/etc/passwd", "/etc/group", "/etc/localtime", "/etc/timezone",
    "/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/alternatives", "/etc/mime.types",
    "/etc/os-release", "/etc/terminfo",
)  # fmt: skip
"""What every script may read and run.  Neither /proc (other processes) nor all of /etc, /opt, /home,
/run, /var and /srv: that is where keys and data of Medic and of others lie."""
WRITABLE_DEVICES = ("/dev/null", "/dev/full")

_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS = 1, 22, 36, 38
_SECCOMP_MODE_FILTER = 2
_CAPABILITY_VERSION_3 = 0x20080522
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same numbers on both machines
_RULE_PATH_BENEATH = 1
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR, _MAKE_CHAR, _MAKE_BLOCK = 1, 2, 4, 8, 1 << 6, 1 << 11
_TRUNCATE, _IOCTL_DEV = 1 << 14, 1 << 15
_OF_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV
_FIRST_LONELY_UID = 1_879_048_192  # above the ranges that Linux distributions and container tools use

_libc = ctypes.CDLL(None, use_errno=True)


def _call(what: str, function: str, *args: object) -> int:
    """Call libc; :raises Refused: with the reason."""
    if sys.platform != "linux":
        raise Refused(f"{what}: this system is not Linux")
    converted = [ctypes.c_long(arg) if isinstance(arg, int) else arg for arg in args]
    result: int = getattr(_libc, function)(*converted)
    if result < 0:
        raise Refused(f"{what}: {os.strerror(ctypes.get_errno())}")
    return result


def adopt_orphans() -> None:
    """Become the parent of every orphan below."""
    _call("subreaper", "prctl", _PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def die_with_parent(number: int) -> None:
    """Have the kernel send this signal when the parent ends."""
    _call("parent-death signal", "prctl", _PR_SET_PDEATHSIG, number, 0, 0, 0)


def landlock_abi() -> int:
    """Landlock's version in this kernel; 0 where it is absent or off."""
    try:
        return _call("Landlock", "syscall", _CREATE_RULESET, None, 0, 1)
    except Refused:
        return 0


def limit_resources(order: Order, uid: int) -> None:
    """Bound the process.  NPROC counts every thread of the user, so what lives already is added to it."""
    seconds = math.ceil(order.timeout)
    wanted = {
        resource.RLIMIT_CORE: (0, 0),
        resource.RLIMIT_CPU: (seconds + 5, seconds + 10),
        resource.RLIMIT_FSIZE: (order.file_size, order.file_size),
        resource.RLIMIT_NOFILE: (order.open_files, order.open_files),
        resource.RLIMIT_NPROC: (order.processes + tree.threads_of(uid),) * 2,
        resource.RLIMIT_AS: (order.memory, order.memory),
    }
    for what, pair in wanted.items():
        hard = resource.getrlimit(what)[1]
        soft, top = (min(value, hard) if hard != resource.RLIM_INFINITY else value for value in pair)
        try:
            resource.setrlimit(what, (soft, top))
        except (OSError, ValueError) as error:
            raise Refused(f"resource limit {what}: {error}") from None


def lonely_uid(order: Order, supervisor: int) -> int | None:
    """A user id of its own for a script that root starts; None: it keeps the id it has.

    One id per running script (pids are unique) bounds its processes and parts scripts from each other.
    It is only taken where that id exists in this user namespace and can reach what it needs.
    """
    uid = _FIRST_LONELY_UID + supervisor
    if os.geteuid() != 0 or sys.platform != "linux":
        return None
    try:
        with open("/proc/self/uid_map", encoding="ascii") as file:
            ranges = [[int(part) for part in line.split()] for line in file]
    except (OSError, ValueError):
        return None
    if not any(start <= uid < start + count for start, _, count in ranges):
        return None
    needed = (order.argv[0], *order.readable, os.path.dirname(order.folder))
    return uid if all(map(_reachable, needed)) else None


def _reachable(path: str) -> bool:
    """Whether anybody may go down to `path` and pass through or run it."""
    path = os.path.realpath(path)
    while True:
        if not os.stat(path).st_mode & 0o001:
            return False
        if path == os.path.dirname(path):
            return True
        path = os.path.dirname(path)


def become(uid: int, order: Order) -> None:
    """Hand the script's folder to `uid` and become that user.  Capabilities go with root's id."""
    try:
        for path in (order.folder, order.script, order.work):
            os.chown(path, uid, uid)
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    except OSError as error:
        raise Refused(f"user id of its own: {error.strerror}") from None


def drop_privileges() -> None:
    """No capabilities now, and none by any later exec."""
    _call("no_new_privs", "prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    header = ctypes.create_string_buffer(struct.pack("=Ii", _CAPABILITY_VERSION_3, 0))
    none = ctypes.create_string_buffer(24)
    _call("capabilities", "capset", header, none)


def restrict_files(order: Order) -> int:
    """Landlock; :returns: the ABI in force.

    Understands ABI 1 to 7.  A later kernel keeps these rights; what it adds is not asked for.
    """
    abi = landlock_abi()
    if abi < 1:
        raise Refused("Landlock: this kernel does not offer it")
    bits = 13 + (abi >= 2) + (abi >= 3) + (abi >= 5)
    everything = (1 << bits) - 1
    network = 0b11 if abi >= 4 and not order.network else 0  # bind and connect over TCP
    scopes = 0b11 if abi >= 6 else 0  # abstract UNIX sockets, signals
    size = 24 if abi >= 6 else 16 if abi >= 4 else 8
    attributes = ctypes.create_string_buffer(struct.pack("=QQQ", everything, network, scopes)[:size], size)
    ruleset = _call("Landlock", "syscall", _CREATE_RULESET, attributes, size, 0)
    try:
        read = _EXECUTE | _READ_FILE | _READ_DIR
        for path in (*READABLE, *order.readable, order.script):
            _allow(ruleset, path, read)
        for path in WRITABLE_DEVICES:
            _allow(ruleset, path, (_READ_FILE | _WRITE_FILE | _TRUNCATE) & everything)
        _allow(ruleset, order.work, everything & ~(_MAKE_CHAR | _MAKE_BLOCK))
        _call("Landlock", "syscall", _RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)
    return abi


def _allow(ruleset: int, path: str, rights: int) -> None:
    try:
        target = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return  # not on this machine; without a rule it stays closed
    try:
        if not os.path.isdir(path):
            rights &= _OF_FILES
        rule = ctypes.create_string_buffer(struct.pack("=Qi", rights, target), 12)
        _call("Landlock", "syscall", _ADD_RULE, ruleset, _RULE_PATH_BENEATH, rule, 0)
    finally:
        os.close(target)


def filter_calls(*, network: bool) -> None:
    """Install the seccomp filter for good."""
    try:
        program = seccomp.build(os.uname().machine, network=network)
    except KeyError as machine:
        raise Refused(f"seccomp: no table for {machine}") from None
    code = ctypes.create_string_buffer(program, len(program))
    header = ctypes.create_string_buffer(struct.pack("@HP", len(program) // 8, ctypes.addressof(code)))
    _call("seccomp", "prctl", _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, header, 0, 0)
