"""`medic run`: what the job gets, what its caller gets, what Medic gets."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.client.conftest import KEY, Bench
from tests.waiting import eventually


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_a_run_is_reported_with_start_end_duration_and_output(bench: Bench) -> None:
    done = bench.run("--service", "backup", "--", "sh", "-c", "echo copied; sleep 0.3")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"copied\n", b"")
    start, end = bench.signals("start")[0], bench.signals("complete")[0]
    assert start["service"] == end["service"] == "backup"
    assert start["run_id"] == end["run_id"]
    assert start["id"] != end["id"]
    assert 300 <= end["duration_ms"] < 10_000
    assert (end["exit_code"], end["message"]) == (0, "copied\n")
    assert bench.recorder.requests[0].headers["authorization"] == f"Bearer {KEY}"
    assert not bench.waiting()


def test_the_exit_code_passes_through_and_is_a_failure(bench: Bench) -> None:
    assert bench.run("sh", "-c", "echo no space >&2; exit 7").returncode == 7
    failed = bench.signals("fail")[0]
    assert (failed["exit_code"], failed["message"]) == (7, "no space\n")


def test_a_job_that_a_signal_kills_ends_with_128_and_its_number(bench: Bench) -> None:
    assert bench.run("--", "sh", "-c", "kill -SEGV $$").returncode == 128 + signal.SIGSEGV
    assert bench.signals("fail")[0]["exit_code"] == 128 + signal.SIGSEGV


@pytest.mark.parametrize(
    ("command", "code"), [("no-such-command", 127), ("./plain", 126), ("./plain/x", 127)]
)
def test_a_command_that_cannot_start_is_a_failure(bench: Bench, command: str, code: int) -> None:
    (bench.folder / "plain").write_text("echo never")
    done = bench.run("--service", "s", "--", command)
    assert done.returncode == code
    assert command.encode() in done.stderr
    failed = bench.signals("fail")[0]
    assert failed["exit_code"] == code
    assert command in failed["message"]
    assert not bench.signals("start")


def test_a_script_without_an_interpreter_line_runs_under_sh(bench: Bench) -> None:
    script = bench.folder / "nightly.sh"
    script.write_text('echo "$1"')
    script.chmod(0o755)
    assert bench.run(str(script), "given").stdout == b"given\n"
    assert bench.signals("complete")[0]["service"] == "nightly"


def test_binary_output_passes_unchanged_and_its_end_is_sent_as_text(bench: Bench) -> None:
    code = (
        "import os,sys\n"
        "data = bytes(range(256)) * 8192\n"
        "sys.stdout.buffer.write(data); sys.stdout.flush(); os.write(2, data[:5000])"
    )
    done = bench.run("--service", "s", *python(code))
    assert done.stdout == bytes(range(256)) * 8192
    assert done.stderr == (bytes(range(256)) * 20)[:5000]
    message = bench.signals("complete")[0]["message"]
    assert 3_000 < len(message.encode()) <= 10_000
    assert "\0" not in message


def test_much_output_arrives_whole(bench: Bench) -> None:
    code = "import os\nfor n in range(320): os.write(1, (b'%06d ' % n) * 9362 + b'\\n')"
    done = bench.run("--service", "s", *python(code))
    expected = b"".join(b"%06d " % n * 9362 + b"\n" for n in range(320))
    assert len(expected) > 20_000_000
    assert hashlib.sha256(done.stdout).digest() == hashlib.sha256(expected).digest()
    assert bench.signals("complete")[0]["message"] == expected[-10_000:].decode()


def test_both_streams_to_one_place_keep_their_order(bench: Bench) -> None:
    code = "import os\nfor n in range(2000): os.write(1 + n % 2, b'%d\\n' % n)"
    done = bench.run("--service", "s", *python(code), stderr=subprocess.STDOUT)
    assert done.stdout.split() == [b"%d" % n for n in range(2000)]


def test_output_is_passed_on_before_the_job_ends(bench: Bench) -> None:
    job = bench.start("--service", "s", "--", "sh", "-c", "echo first; read line", stdin=subprocess.PIPE)
    assert job.stdout is not None
    assert job.stdin is not None
    assert job.stdout.readline() == b"first\n"
    assert job.poll() is None
    job.stdin.write(b"go\n")
    job.stdin.close()
    assert job.wait(timeout=20) == 0


def test_no_output_keeps_it_home(bench: Bench) -> None:
    assert bench.run("--service", "s", "--no-output", "echo", "secret").stdout == b"secret\n"
    assert "message" not in bench.signals("complete")[0]


def test_a_reader_that_leaves_ends_the_job_as_ever(bench: Bench) -> None:
    job = bench.start("--service", "s", "yes")
    assert job.stdout is not None
    assert job.stdout.read(2) == b"y\n"
    job.stdout.close()
    assert job.wait(timeout=20) == 128 + signal.SIGPIPE


def test_the_key_reaches_neither_the_arguments_nor_the_environment_of_the_job(bench: Bench) -> None:
    del bench.environ["MEDIC_API_KEY"]
    done = bench.run(
        "--service", "s", "--key", KEY, *python("print(open('/proc/self/environ').read(), __import__('sys').argv)")
    )  # fmt: skip
    assert KEY.encode() not in done.stdout
    assert bench.recorder.requests[0].headers["authorization"] == f"Bearer {KEY}"


def test_a_key_may_come_from_a_file_or_from_a_local_medic(bench: Bench) -> None:
    del bench.environ["MEDIC_API_KEY"]
    (bench.folder / "key").write_text("mdk_of_file\n")
    bench.run("--service", "s", "--key", "@key", "true")
    del bench.environ["MEDIC_BASE_URL"]
    (bench.folder / ".medic").mkdir()
    (bench.folder / ".medic" / "client.json").write_text(
        f'{{"url": "{bench.recorder.url}", "key_file": "{bench.folder / "key2"}"}}'
    )
    (bench.folder / "key2").write_text("mdk_of_folder\n")
    bench.run("--service", "s", "true")
    used = {request.headers["authorization"] for request in bench.recorder.requests}
    assert used == {"Bearer mdk_of_file", "Bearer mdk_of_folder"}


def test_the_key_of_a_local_medic_goes_to_no_other_server(bench: Bench) -> None:
    del bench.environ["MEDIC_API_KEY"]
    (bench.folder / ".medic").mkdir()
    (bench.folder / "key").write_text("mdk_of_folder")
    (bench.folder / ".medic" / "client.json").write_text(
        f'{{"url": "http://127.0.0.1:1", "key_file": "{bench.folder / "key"}"}}'
    )
    bench.run("--service", "s", "true")
    assert bench.recorder.requests
    assert all("authorization" not in request.headers for request in bench.recorder.requests)


def test_the_job_has_the_signals_that_it_would_have_without_us(bench: Bench) -> None:
    command = ["grep", "-E", "^Sig(Blk|Ign):", "/proc/self/status"]

    def ignore_hangup() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})

    bare = subprocess.run(
        command, env=bench.environ, preexec_fn=ignore_hangup, capture_output=True, check=True
    ).stdout
    wrapped = bench.run("--service", "s", *command, preexec_fn=ignore_hangup).stdout
    assert _masks(bare) == {"SigIgn": 1 << signal.SIGHUP - 1, "SigBlk": 1 << signal.SIGUSR2 - 1}
    assert _masks(wrapped) == _masks(bare)


def test_the_job_inherits_open_descriptors(bench: Bench) -> None:
    read, write = os.pipe()
    with os.fdopen(read, "rb") as kept:
        code = f"import os; os.write({write}, b'kept')"
        assert bench.run("--service", "s", *python(code), pass_fds=[write]).returncode == 0
        os.close(write)
        assert kept.read() == b"kept"


def test_a_job_that_takes_too_long_is_stopped_with_all_its_group(bench: Bench) -> None:
    done = bench.run(
        "--service", "s", "--timeout", "1s", "--", "sh", "-c", "sleep 300 & echo $!; wait; echo no"
    )
    assert done.returncode == 124
    child = int(done.stdout)
    eventually(lambda: not Path(f"/proc/{child}").exists() or _is_zombie(child))
    failed = bench.signals("fail")[0]
    assert failed["exit_code"] == 124
    assert "--timeout" in failed["message"]


def test_a_job_that_ignores_the_stop_is_killed(bench: Bench) -> None:
    stubborn = "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\ntime.sleep(300)"
    code = (
        "import sys, medic.client.watch as watch\n"
        "watch.KILL_AFTER_S = 0.3\n"
        "from medic.cli import main\n"
        f"main(['run', '--service', 's', '--timeout', '1s', sys.executable, '-c', {stubborn!r}])"
    )
    done = subprocess.run(
        python(code), env=bench.environ, start_new_session=True, capture_output=True, timeout=60, check=False
    )
    assert done.returncode == 124
    assert bench.signals("fail")[0]["duration_ms"] >= 1_200


def test_a_daemon_that_the_job_leaves_behind_holds_nobody_up_and_keeps_its_output(bench: Bench) -> None:
    fifo = bench.folder / "go"
    os.mkfifo(fifo)
    log = bench.folder / "log"
    daemon = (
        f"(read line < {fifo}; echo from the daemon; echo still there > {bench.folder / 'alive'}) & echo done"
    )
    with log.open("wb") as out:
        assert bench.start("--service", "s", "--", "sh", "-c", daemon, stdout=out).wait(timeout=20) == 0
    assert bench.signals("complete")[0]["message"] == "done\n"
    fifo.write_text("go\n")
    assert eventually((bench.folder / "alive").exists)
    assert eventually(lambda: log.read_bytes() == b"done\nfrom the daemon\n")


def test_the_job_outlives_a_kill_of_its_wrapper_and_can_still_write(bench: Bench) -> None:
    fifo, log, end = bench.folder / "go", bench.folder / "log", bench.folder / "end"
    os.mkfifo(fifo)
    with log.open("wb") as out:
        job = bench.start(
            "--service", "s", "--", "sh", "-c", f"echo one; read line < {fifo}; echo two; echo ok > {end}", stdout=out
        )  # fmt: skip
    eventually(lambda: log.read_bytes() == b"one\n")
    job.kill()
    job.wait(timeout=10)
    fifo.write_text("go\n")
    assert eventually(end.exists)
    assert eventually(lambda: log.read_bytes() == b"one\ntwo\n")


def test_closed_standard_streams_do_no_harm(bench: Bench) -> None:
    closing = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", sys.executable, "-m", "medic", "run"]
    command = [
        "--service",
        "s",
        "--",
        "sh",
        "-c",
        f"echo out; exec > {bench.folder / 'file'}; echo in; exit 4",
    ]
    done = subprocess.run(
        [*closing, *command], env=bench.environ, start_new_session=True, timeout=60, check=False
    )
    assert done.returncode == 4
    assert (bench.folder / "file").read_text() == "in\n"
    assert bench.signals("fail")[0]["message"] == "out\n"


def _is_zombie(pid: int) -> bool:
    try:
        return ") Z " in Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True


def _masks(shown: bytes) -> dict[str, int]:
    """Signal masks of /proc/PID/status, without 32 and 33: glibc's own, which its posix_spawn ignores."""
    lines = (line.split(":") for line in shown.decode().splitlines())
    return {name: int(mask, 16) & ~(3 << 31) for name, mask in lines}


def test_who_feeds_the_job_sees_it_leave(bench: Bench) -> None:
    leaves = "import os, sys, time\nos.close(0)\nprint('closed', flush=True)\nos.read(3, 1)"
    read, write = os.pipe()
    environ = bench.environ | {"GO": str(read)}
    code = leaves.replace("os.read(3", "os.read(int(os.environ['GO'])")
    job = bench.start("--service", "s", *python(code), pass_fds=[read], stdin=subprocess.PIPE, env=environ)
    os.close(read)
    assert job.stdin is not None
    assert job.stdout is not None
    assert job.stdout.readline() == b"closed\n"
    with pytest.raises(BrokenPipeError):
        os.write(job.stdin.fileno(), b"x")
    os.close(write)
    assert job.wait(timeout=20) == 0
