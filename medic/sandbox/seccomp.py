"""The system-call filter of a caged script, as classic BPF.  Pure: a program is bytes.

It is a second wall behind Landlock, for what Landlock cannot see:

- sockets.  Without network no socket is made at all, UNIX ones included: Landlock does not judge a
  ``connect`` to a path-named UNIX socket before ABI 9, and behind such sockets sit container daemons
  and local databases that trust the user's id.  With network only IPv4 and IPv6 are open.
  ``socketpair`` stays for streams (event loops need it); a datagram pair could be re-addressed.
- reading or steering other processes, new namespaces and mounts, kernel attack surface (``io_uring``,
  ``bpf``, ``userfaultfd``, ``keyctl``, ``perf``), and System V / POSIX queues and shared memory, which
  would outlive the script.
- ``prctl(PR_SET_PDEATHSIG)``: a script cannot take itself off the leash.

Numbers: arch/x86/entry/syscalls/syscall_64.tbl and include/uapi/asm-generic/unistd.h of Linux.
Program form: Documentation/userspace-api/seccomp_filter.rst.  Imported by the launcher without the
package, so standard library only.
"""

from __future__ import annotations

import struct

# name: (x86-64, aarch64); None where the call does not exist.
DENIED: dict[str, tuple[int, int | None]] = {
    "acct": (163, 89),
    "add_key": (248, 217),
    "bpf": (321, 280),
    "clock_adjtime": (305, 266),
    "clock_settime": (227, 112),
    "delete_module": (176, 106),
    "fanotify_init": (300, 262),
    "finit_module": (313, 273),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fsopen": (430, 430),
    "fspick": (433, 433),
    "init_module": (175, 105),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "io_uring_setup": (425, 425),
    "ioperm": (173, None),
    "iopl": (172, None),
    "kcmp": (312, 272),
    "kexec_file_load": (320, 294),
    "kexec_load": (246, 104),
    "keyctl": (250, 219),
    "migrate_pages": (256, 238),
    "mount": (165, 40),
    "mount_setattr": (442, 442),
    "move_mount": (429, 429),
    "move_pages": (279, 239),
    "mq_open": (240, 180),
    "msgget": (68, 186),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "open_tree": (428, 428),
    "perf_event_open": (298, 241),
    "pidfd_getfd": (438, 438),
    "pivot_root": (155, 41),
    "process_madvise": (440, 440),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "ptrace": (101, 117),
    "quotactl": (179, 60),
    "reboot": (169, 142),
    "request_key": (249, 218),
    "semget": (64, 190),
    "setdomainname": (171, 162),
    "sethostname": (170, 161),
    "setns": (308, 268),
    "settimeofday": (164, 170),
    "shmget": (29, 194),
    "swapoff": (168, 225),
    "swapon": (167, 224),
    "syslog": (103, 116),
    "umount2": (166, 39),
    "unshare": (272, 97),
    "userfaultfd": (323, 282),
}
# Calls that are judged by their arguments.
JUDGED: dict[str, tuple[int, int]] = {
    "clone": (56, 220),
    "clone3": (435, 435),
    "prctl": (157, 167),
    "socket": (41, 198),
    "socketpair": (53, 199),
}

AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

ALLOW = 0x7FFF0000
KILL_PROCESS = 0x80000000
REFUSE = 0x00050000 | 1  # SECCOMP_RET_ERRNO, EPERM
ABSENT = 0x00050000 | 38  # SECCOMP_RET_ERRNO, ENOSYS: libraries then take the older call

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _AND, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06
_NUMBER, _ARCH = 0, 4
_NEW_NAMESPACES = 0x7E020000  # CLONE_NEW{USER,PID,NET,IPC,UTS,CGROUP,NS}; NEWTIME is for clone3 alone
_X32 = 0x40000000
_AF_INET, _AF_INET6 = 2, 10
_SOCK_STREAM, _SOCK_SEQPACKET, _SOCK_TYPE_MASK = 1, 5, 0xF
_PR_SET_PDEATHSIG = 1

Instruction = tuple[int, int, int, int]


def _argument(index: int) -> int:
    """Offset of an argument's low half in ``struct seccomp_data``; both machines are little-endian."""
    return 16 + 8 * index


def _one_of(values: tuple[int, ...], verdict: int, otherwise: int) -> list[Instruction]:
    """Compare what is loaded with each value."""
    program: list[Instruction] = []
    for value in values:
        program += [(_EQUAL, 0, 1, value), (_RETURN, 0, 0, verdict)]
    return [*program, (_RETURN, 0, 0, otherwise)]


def _only_for(number: int, block: list[Instruction]) -> list[Instruction]:
    """Run a block that ends in a verdict when the call has this number, else jump over it."""
    return [(_EQUAL, 0, len(block), number), *block]


def build(machine: str, *, network: bool) -> bytes:
    """The filter for a machine.

    :param machine: as `os.uname` names it: ``x86_64`` or ``aarch64``.
    :param network: True lets IPv4 and IPv6 sockets through.
    :returns: an array of ``struct sock_filter``.
    :raises KeyError: for another machine.
    """
    column = ("x86_64", "aarch64").index(machine) if machine in AUDIT_ARCH else None
    if column is None:
        raise KeyError(machine)
    program: list[Instruction] = [
        (_LOAD, 0, 0, _ARCH),
        (_EQUAL, 1, 0, AUDIT_ARCH[machine]),
        (_RETURN, 0, 0, KILL_PROCESS),
        (_LOAD, 0, 0, _NUMBER),
    ]
    if machine == "x86_64":
        program += [(_AT_LEAST, 0, 1, _X32), (_RETURN, 0, 0, KILL_PROCESS)]
    for numbers in DENIED.values():
        if (number := numbers[column]) is not None:
            program += _only_for(number, [(_RETURN, 0, 0, REFUSE)])

    call = {name: numbers[column] for name, numbers in JUDGED.items()}
    families = (_AF_INET, _AF_INET6) if network else ()
    program += _only_for(call["socket"], [(_LOAD, 0, 0, _argument(0)), *_one_of(families, ALLOW, REFUSE)])
    program += _only_for(
        call["socketpair"],
        [
            (_LOAD, 0, 0, _argument(1)),
            (_AND, 0, 0, _SOCK_TYPE_MASK),
            *_one_of((_SOCK_STREAM, _SOCK_SEQPACKET), ALLOW, REFUSE),
        ],
    )
    program += _only_for(
        call["prctl"], [(_LOAD, 0, 0, _argument(0)), *_one_of((_PR_SET_PDEATHSIG,), REFUSE, ALLOW)]
    )
    program += _only_for(
        call["clone"],
        [
            (_LOAD, 0, 0, _argument(0)),
            (_ANY_BIT, 0, 1, _NEW_NAMESPACES),
            (_RETURN, 0, 0, REFUSE),
            (_RETURN, 0, 0, ALLOW),
        ],
    )
    program += _only_for(call["clone3"], [(_RETURN, 0, 0, ABSENT)])  # its flags lie behind a pointer
    program.append((_RETURN, 0, 0, ALLOW))
    return b"".join(struct.pack("<HBBI", *instruction) for instruction in program)
