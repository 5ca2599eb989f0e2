from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from medic.errors import Invalid, SandboxUnavailable
from medic.sandbox import Limits, probe

if TYPE_CHECKING:
    from conftest import Run


def test_bash_gets_arguments_environment_and_stdin_as_data(run: Run) -> None:
    nasty = "$(touch pwned); `id` \"' ${HOME} \n ü"
    script = 'printf "%s|%s|" "$1" "$NASTY"; cat; ls | grep -c . || true'
    result = run(
        "bash", script, args=[nasty], env={"PATH": "/usr/bin:/bin", "NASTY": nasty}, stdin=nasty.encode()
    )
    assert result.stdout == f"{nasty}|{nasty}|{nasty}0\n"
    assert (result.exit_code, result.signal, result.stderr) == (0, None, "")


def test_python_gets_json_on_stdin(run: Run) -> None:
    script = "import json, sys; print(json.load(sys.stdin)['service'], sys.argv[1:])"
    result = run("python", script, args=["a b"], stdin=json.dumps({"service": "wörker"}).encode())
    assert result.stdout == "wörker ['a b']\n"
    assert result.exit_code == 0


def test_the_environment_is_exactly_the_one_given(run: Run) -> None:
    given = {"PATH": "/usr/bin:/bin", "MEDIC_EXECUTION_ID": "7", "TMPDIR": "/nowhere"}
    shown = run("bash", "exec env", env=given)
    pairs = dict(line.split("=", 1) for line in shown.stdout.splitlines())
    for name in ("PWD", "OLDPWD", "SHLVL", "_"):  # bash's own
        pairs.pop(name, None)
    assert pairs == given


def test_secrets_of_the_worker_never_arrive(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("MEDIC_SECRETS_KEY", "MEDIC_DATABASE_URL", "REDIS_URL", "PG_PASS", "AWS_SECRET_ACCESS_KEY")
    for name in names:
        monkeypatch.setenv(name, "do-not-leak-this")
    look = "import os, sys; print(dict(os.environ)); sys.stdout.write(os.popen('env; set').read())"
    assert "do-not-leak-this" not in run("python", look).stdout
    assert "do-not-leak-this" not in run("bash", "env; set; declare -x").stdout


def test_exit_code_and_both_streams_come_back(run: Run) -> None:
    result = run("bash", "echo out; echo err >&2; exit 7")
    assert (result.exit_code, result.stdout, result.stderr) == (7, "out\n", "err\n")
    assert not any((result.timed_out, result.stopped, result.lost, result.disk_exceeded))


def test_bash_stops_at_the_first_error(run: Run) -> None:
    assert run("bash", "false; echo on").stdout == ""


def test_a_signal_is_told_from_an_exit_code(run: Run) -> None:
    result = run("bash", "kill -USR1 $$; sleep 9")
    assert (result.exit_code, result.signal) == (None, 10)


def test_wrong_bytes_are_replaced_and_nuls_dropped(run: Run) -> None:
    assert run("bash", r"printf 'a\0b\xff\0'").stdout == "ab\ufffd"


def test_a_script_that_leaves_much_stdin_unread_ends_quietly(run: Run) -> None:
    assert run("bash", "exit 0", stdin=b"x" * 2_000_000).exit_code == 0


def test_much_stdin_arrives_whole(run: Run) -> None:
    assert run("bash", "wc -c", stdin=b"x" * 2_000_000).stdout.strip() == "2000000"


def test_the_work_folder_is_private_empty_and_writable_and_gone_at_the_end(run: Run, base: Path) -> None:
    result = run("bash", "stat -c %a . ; ls -A; echo x > f; mkdir d; mktemp; cat <<< here; pwd")
    mode, temporary, here, folder = result.stdout.splitlines()
    assert (mode, here) == ("700", "here")
    assert temporary.startswith(folder)
    assert Path(folder).parent.parent == base
    assert list(base.iterdir()) == []


def test_process_substitution_and_pipes_work_in_the_cage(run: Run) -> None:
    assert run("bash", "cat <(echo a) <(echo b) | tr a-z A-Z").stdout == "A\nB\n"


def test_python_in_the_cage_can_use_subprocesses_threads_and_an_event_loop(run: Run) -> None:
    script = """
import asyncio, concurrent.futures, subprocess, tempfile
async def main():
    with tempfile.TemporaryFile() as file:
        file.write(b"x")
    made = await asyncio.create_subprocess_exec("echo", "asyncio", stdout=-1)
    return (await made.communicate())[0].decode().strip()
print(asyncio.run(main()), subprocess.check_output(["echo", "sub"], text=True).strip())
with concurrent.futures.ThreadPoolExecutor(4) as pool: print(sum(pool.map(abs, range(-9, 0))))
"""
    result = run("python", script)
    assert (result.stdout, result.stderr) == ("asyncio sub\n45\n", "")


def test_before_start_that_raises_means_that_nothing_ran(run: Run, base: Path) -> None:
    class LeaseLost(Exception):
        pass

    def refuse() -> None:
        assert list(base.glob("*/work/*")) == []
        raise LeaseLost

    with pytest.raises(LeaseLost):
        run("bash", "echo ran > trace; sleep 60", before_start=refuse)
    assert list(base.iterdir()) == []


def test_before_start_is_called_before_the_first_instruction(run: Run, base: Path) -> None:
    seen: list[bool] = []
    result = run("bash", "echo ran", before_start=lambda: seen.append(bool(list(base.glob("*/work")))))
    assert (seen, result.stdout) == ([True], "ran\n")


def test_a_script_cancelled_before_its_start_does_not_run(run: Run) -> None:
    result = run("bash", "echo ran", should_stop=lambda: True)
    assert (result.stopped, result.stdout, result.exit_code, result.lost) == (True, "", None, False)


@pytest.mark.parametrize("text", ["nul\0", "half \ud83d"])
def test_what_no_process_can_be_given_is_refused(run: Run, text: str) -> None:
    with pytest.raises(Invalid, match=r"args\.0"):
        run("bash", "true", args=[text])
    with pytest.raises(Invalid, match="env"):
        run("bash", "true", env={"A": text})


def test_half_a_character_in_the_script_is_refused(run: Run) -> None:
    with pytest.raises(Invalid, match="content"):
        run("bash", "echo \ud83d")


def test_variables_that_are_too_long_for_a_process_are_refused_before_anything_runs(run: Run) -> None:
    with pytest.raises(Invalid, match="too long"):
        run("bash", "true", env={"A": "x" * 4_000_000})


def test_scripts_run_beside_each_other_in_threads(run: Run) -> None:
    results: list[str] = []
    threads = [
        threading.Thread(
            target=lambda n=n: results.append(run("bash", f"sleep 0.1; echo {n}").stdout.strip())
        )
        for n in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == ["0", "1", "2", "3"]


def test_the_workers_other_children_are_left_alone(run: Run) -> None:
    living = subprocess.Popen(["sleep", "60"])
    ended = subprocess.Popen(["sh", "-c", "exit 42"])
    try:
        assert run("bash", "setsid sleep 60 & exit 0").exit_code == 0
        assert living.poll() is None
        assert ended.wait(5) == 42
    finally:
        living.kill()
        living.wait()


def test_a_base_folder_that_others_may_write_is_refused(run: Run, base: Path) -> None:
    base.mkdir()
    base.chmod(0o777)
    with pytest.raises(SandboxUnavailable, match="nobody else may write"):
        run("bash", "true")
    base.chmod(0o700)


@pytest.mark.parametrize("base", ["reachable", "closed"], indirect=True)
def test_the_probe_says_what_this_kernel_holds(base: Path) -> None:
    status = probe(base=base)
    assert status.ok == (status.landlock_abi >= 1 and status.seccomp)
    assert status.seccomp
    assert status.own_uid is (os.geteuid() == 0 and bool(base.parent.stat().st_mode & 1))


WITHOUT = """
import ctypes, json, struct, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from medic.errors import SandboxUnavailable
from medic.sandbox import Limits, probe, run_script
from medic.sandbox.seccomp import JUDGED
lack, base = sys.argv[2], Path(sys.argv[3])
column = ("x86_64", "aarch64").index(__import__("os").uname().machine)
ret = lambda value: struct.pack("<HBBI", 0x06, 0, 0, value)
load = lambda offset: struct.pack("<HBBI", 0x20, 0, 0, offset)
unless = lambda value, skip: struct.pack("<HBBI", 0x15, 0, skip, value)
if lack == "landlock":
    program = load(0) + unless(444, 1) + ret(0x50000 | 38) + ret(0x7FFF0000)
else:
    program = load(0) + unless(JUDGED["prctl"][column], 3) + load(16) + unless(22, 1) + ret(0x50000 | 22) + ret(0x7FFF0000)
libc = ctypes.CDLL(None)
code = ctypes.create_string_buffer(program)
assert libc.prctl(38, 1, 0, 0, 0) == 0
assert libc.prctl(22, 2, struct.pack("@HP", len(program) // 8, ctypes.addressof(code)), 0, 0) == 0
def go(mode):
    try:
        return run_script(interpreter="bash", content="echo ran", args=[], env={}, stdin=b"", timeout=5, network=False,
                          mode=mode, limits=Limits(), should_stop=lambda: False, base=base).stdout
    except SandboxUnavailable as error:
        return "refused: " + str(error)
status = probe(base=base)
print(json.dumps([status.ok, status.reasons, go("required"), go("best-effort")]))
"""


@pytest.mark.parametrize("lack", ["landlock", "seccomp"])
def test_a_kernel_that_lacks_a_wall_fails_closed_with_the_reason(lack: str, base: Path) -> None:
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, root, lack, str(base)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    ok, reasons, required, best_effort = json.loads(done.stdout)
    assert ok is False
    assert any(lack in reason.lower() for reason in reasons)
    assert required.startswith("refused: This worker cannot hold a script safely: ")
    assert lack in required.lower()
    assert best_effort == "ran\n"


def test_the_duration_is_measured_until_the_end(run: Run) -> None:
    started = time.monotonic()
    result = run("bash", "sleep 0.3")
    assert 0.3 <= result.duration <= time.monotonic() - started


def test_limits_are_positive() -> None:
    with pytest.raises(ValueError, match="positive"):
        Limits(memory=0)
