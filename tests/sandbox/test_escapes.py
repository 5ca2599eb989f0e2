"""Scripts that try to get out.  Each test first shows, uncaged, that the way exists."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from medic.sandbox import Limits, ScriptResult, probe

if TYPE_CHECKING:
    from conftest import Run

both_ids = pytest.mark.parametrize("base", ["reachable", "closed"], indirect=True)


def uncaged(script: str, *args: str) -> str:
    return subprocess.run(
        [sys.executable, "-I", "-S", "-c", script, *args],
        capture_output=True,
        text=True,
        check=False,
        timeout=20,
    ).stdout


def holds(run: Run, script: str, *args: str, **changes: object) -> ScriptResult:
    """The script prints OPEN outside of the cage and CLOSED inside."""
    assert "OPEN" in uncaged(script, *args), "the test is blind: the way does not exist outside either"
    result = run("python", script, args=list(args), **changes)
    assert result.stdout.splitlines() == ["CLOSED"], result
    return result


def attempt(body: str) -> str:
    lines = "\n    ".join(body.strip().splitlines())
    return f"import ctypes, os, signal, socket, sys\ntry:\n    {lines}\nexcept OSError: print('CLOSED')\nelse: print('OPEN')\n"


@pytest.mark.parametrize("what", ["environ", "mem", "maps", "cwd/pyproject.toml", "status"])
@both_ids
def test_the_workers_process_cannot_be_read(run: Run, what: str) -> None:
    if what.startswith("cwd"):
        what = "cwd/" + next(path.name for path in Path.cwd().iterdir() if path.is_file())
    holds(run, attempt("open(f'/proc/{sys.argv[1]}/{sys.argv[2]}', 'rb').close()"), str(os.getpid()), what)


@both_ids
def test_the_supervisors_environment_cannot_be_read(run: Run) -> None:
    holds(run, attempt("open(f'/proc/{os.getppid()}/environ', 'rb').read()"))


@both_ids
def test_the_workers_memory_cannot_be_read_by_system_call(run: Run) -> None:
    read = """
libc = ctypes.CDLL(None, use_errno=True)
mine = ctypes.create_string_buffer(8)
class Part(ctypes.Structure): _fields_ = [('at', ctypes.c_void_p), ('size', ctypes.c_size_t)]
a, b = Part(ctypes.addressof(mine), 8), Part(int(sys.argv[2]), 8)
n = libc.process_vm_readv(int(sys.argv[1]), ctypes.byref(a), 1, ctypes.byref(b), 1, 0)
if n != 8: raise OSError
"""
    import ctypes

    secret = ctypes.create_string_buffer(b"password")
    if os.geteuid() != 0:  # then a child may not read its parent's memory where Yama is on
        read = read.replace("if n != 8", "if n == -1 and ctypes.get_errno() == 1")
    script = attempt(read)
    if "OPEN" not in uncaged(script, str(os.getpid()), str(ctypes.addressof(secret))):
        pytest.skip("this kernel forbids it by itself")
    holds(run, script, str(os.getpid()), str(ctypes.addressof(secret)))


@both_ids
def test_worker_and_supervisor_cannot_be_signalled(run: Run, base: Path) -> None:
    status = probe(base=base)
    if status.landlock_abi < 6:
        pytest.skip("; ".join(status.reasons))
    holds(run, attempt("os.kill(int(sys.argv[1]), 0)"), str(os.getpid()))
    result = run("bash", "kill -KILL $PPID || true; kill -STOP $PPID || true; echo on")
    assert result.stdout == "on\n"
    assert (result.exit_code, result.lost) == (0, False)


@both_ids
def test_processes_cannot_be_traced(run: Run) -> None:
    trace = "if ctypes.CDLL(None).ptrace(0, 0, 0, 0) != 0: raise OSError"
    holds(run, attempt(trace))


@pytest.fixture
def listener() -> Iterator[tuple[int, list[object]]]:
    """A server on loopback that says hello; with the list of who came."""
    came: list[object] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(30)

        def serve() -> None:
            while True:
                try:
                    peer, address = server.accept()
                except OSError:
                    return
                came.append(address)
                with peer:
                    peer.sendall(b"hello")

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield server.getsockname()[1], came
        server.shutdown(socket.SHUT_RDWR)
        thread.join(5)


CONNECT = attempt("socket.create_connection(('127.0.0.1', int(sys.argv[1])), 5).recv(5)")


@both_ids
def test_the_network_is_out_of_reach_unless_it_is_allowed(
    run: Run, listener: tuple[int, list[object]]
) -> None:
    port, came = listener
    holds(run, CONNECT, str(port))
    assert len(came) == 1  # the uncaged one
    result = run("bash", f"exec 3<>/dev/tcp/127.0.0.1/{port}; head -c 5 <&3")
    assert (result.exit_code, result.stdout) == (1, "")
    assert len(came) == 1
    lookup = attempt("socket.getaddrinfo('localhost', 80)")
    assert run("python", lookup, network=True).stdout == "OPEN\n"
    assert run("python", CONNECT, args=[str(port)], network=True).stdout == "OPEN\n"
    assert run("bash", f"exec 3<>/dev/tcp/127.0.0.1/{port}; head -c 5 <&3", network=True).stdout == "hello"


@pytest.mark.parametrize("network", [False, True])
@both_ids
def test_unix_sockets_are_out_of_reach(run: Run, tmp_path: Path, *, network: bool) -> None:
    with tempfile.TemporaryDirectory(prefix="s") as folder, socket.socket(socket.AF_UNIX) as server:
        Path(folder).chmod(0o755)
        server.bind(f"{folder}/db")
        Path(f"{folder}/db").chmod(0o777)
        server.listen()
        holds(
            run,
            attempt("socket.socket(socket.AF_UNIX).connect(sys.argv[1])"),
            f"{folder}/db",
            network=network,
        )
    with (
        tempfile.TemporaryDirectory(prefix="s") as folder,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as log,
    ):
        Path(folder).chmod(0o755)
        log.bind(f"{folder}/log")
        Path(f"{folder}/log").chmod(0o777)
        pair = "socket.socketpair(type=socket.SOCK_DGRAM)[0].sendto(b'x', sys.argv[1])"
        holds(run, attempt(pair), f"{folder}/log", network=network)


@both_ids
def test_files_outside_can_neither_be_read_nor_listed_nor_changed(run: Run, base: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="outside-") as name:
        outside = Path(name)
        outside.chmod(0o777)
        secret = outside / "key"
        secret.write_text("secret")
        secret.chmod(0o666)
        ways = """
import os, sys
secret = sys.argv[1]
folder = os.path.dirname(secret)
for way in (
    lambda: open(secret).read(),
    lambda: os.listdir(folder),
    lambda: open(secret, "a").close(),
    lambda: os.truncate(secret, 3),
    lambda: os.link(secret, folder + "/linked"),
    lambda: (os.symlink(secret, folder + "/way"), open(folder + "/way").read()),
    lambda: os.mkdir(folder + "/made"),
    lambda: os.rename(secret, folder + "/moved"),
):
    try: way()
    except OSError: print("CLOSED")
    else: print("OPEN")
"""
        assert run("python", ways, args=[str(secret)]).stdout.split() == ["CLOSED"] * 8
        assert [path.name for path in outside.iterdir()] == ["key"]
        assert secret.read_text() == "secret"
        assert uncaged(ways, str(secret)).split() == ["OPEN"] * 8, "the test is blind"
        assert run("bash", "rm -rf ../* ../../* 2>/dev/null || true; echo > ../x || echo no").stdout == "no\n"


@both_ids
def test_the_folder_of_another_running_script_is_closed(run: Run, base: Path) -> None:
    found: list[ScriptResult] = []

    def look() -> None:
        (other,) = base.glob("run-*/work")
        script = f"cat {other}/note || ls {other} || ls {base} || cat {other.parent}/script || echo closed"
        found.append(run("bash", script))

    ended: list[ScriptResult] = []
    ready, done = threading.Event(), threading.Event()

    def other() -> None:
        ended.append(run("bash", "echo mine > note; chmod 777 . note; sleep 60", should_stop=done.is_set))

    def watch() -> None:
        while not done.is_set():
            if list(base.glob("run-*/work/note")):
                ready.set()
                return
            done.wait(0.02)

    threads = [threading.Thread(target=other), threading.Thread(target=watch)]
    for thread in threads:
        thread.start()
    try:
        assert ready.wait(10)
        look()
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert found[0].stdout == "closed\n"
    assert ended[0].stopped


def test_the_running_script_cannot_change_itself(run: Run) -> None:
    assert run("bash", 'echo "echo more" >> "$0" || echo no').stdout == "no\n"


def test_file_descriptors_of_the_worker_do_not_come_along(run: Run, tmp_path: Path) -> None:
    with (tmp_path / "open").open("w") as file:
        os.set_inheritable(file.fileno(), True)
        script = "import os\nfor fd in range(3, 256):\n  try: os.fstat(fd); print(fd)\n  except OSError: pass"
        assert run("python", script).stdout == ""


@both_ids
def test_privileges_are_dropped_for_good(run: Run) -> None:
    script = """
import ctypes, os
libc = ctypes.CDLL(None)
header, data = ctypes.create_string_buffer(b"\\x22\\x05\\x08\\x20\\0\\0\\0\\0"), ctypes.create_string_buffer(24)
data.raw = b"x" * 24
assert libc.capget(header, data) == 0
print(data.raw[:24] == bytes(24), libc.prctl(39, 0, 0, 0, 0), os.umask(0) == 0o077)
for call in (lambda: os.setuid(0 if os.getuid() else 1), lambda: os.chroot("."), lambda: os.nice(-1)):
    try: call(); print("OPEN")
    except OSError: print("CLOSED")
"""
    assert run("python", script).stdout.splitlines() == ["True 1 True", "CLOSED", "CLOSED", "CLOSED"]


@both_ids
def test_namespaces_mounts_and_the_leash_are_refused(run: Run) -> None:
    script = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
for call in (lambda: libc.unshare(0x10000000), lambda: libc.mount(b"x", b".", b"tmpfs", 0, None),
             lambda: libc.prctl(1, 0, 0, 0, 0), lambda: libc.shmget(0, 4096, 0o600)):
    print(call(), ctypes.get_errno())
"""
    assert run("python", script).stdout.splitlines() == ["-1 1"] * 4


def test_memory_files_and_core_are_bounded(run: Run) -> None:
    limits = Limits(memory=200 * 2**20, file_size=2**20, open_files=50, grace=0.3)
    shown = run(
        "bash", "for what in v f n c t; do ulimit -$what; done", limits=limits, timeout=7
    ).stdout.split()
    assert shown == [str(200 * 1024), "1024", "50", "0", "12"]
    assert "MemoryError" in run("python", "bytearray(300 * 2**20)", limits=limits).stderr
    result = run("bash", "head -c 3000000 /dev/zero > big; echo never", limits=limits)
    assert "never" not in result.stdout


FILLS = {
    "in many files": "i=0; while :; do i=$((i+1)); head -c 1000000 /dev/zero > f$i; done",
    "in many empty files": "mkdir d; cd d; while :; do i=$((i+1)); : > f$i; done",
    "in a deleted file": "exec 3> gone; rm gone; head -c 30000000 /dev/zero >&3; sleep 60",
    "behind a closed folder": "mkdir d; head -c 30000000 /dev/zero > d/f; chmod 000 d; sleep 60",
}


@pytest.mark.parametrize("way", FILLS)
def test_a_script_that_fills_the_disk_is_ended(run: Run, way: str, base: Path) -> None:
    result = run("bash", FILLS[way], limits=Limits(disk=20 * 2**20, file_size=40 * 2**20))
    assert (result.disk_exceeded, result.signal, result.timed_out) == (True, 9, False)
    assert list(base.iterdir()) == []


def test_a_flood_of_output_is_capped_and_does_not_block(run: Run) -> None:
    script = "yes out | head -c 20000000; yes err | head -c 20000000 >&2; exit 5"
    result = run("bash", script, limits=Limits(output=10_000))
    assert result.exit_code == 5
    assert (len(result.stdout), len(result.stderr)) == (10_000, 10_000)
    assert result.stdout_truncated
    assert result.stderr_truncated


def test_output_that_just_fits_is_not_called_truncated(run: Run) -> None:
    result = run("bash", "printf 12345", limits=Limits(output=5))
    assert (result.stdout, result.stdout_truncated) == ("12345", False)
