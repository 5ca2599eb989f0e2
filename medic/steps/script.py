"""``script``: run a registered script in the sandbox.

Values never become part of the script's text.  It gets them as its environment (Medic's ids, the execution's
variables, the parameters, in this order, later ones win), as arguments (``args:``; no secrets, since argv is
visible to others) and as one JSON object of all parameters on standard input.  Exit code 0 is success;
standard output that is JSON can be read as ``${steps.NAME.json.…}``.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import ClassVar, Literal

from medic.errors import Invalid, NotFound, SandboxUnavailable
from medic.playbook.reader import Reader
from medic.playbook.scope import VARIABLE_NAME, Json, Reference, Scope
from medic.playbook.template import Listed, Mapped, Tree, as_text, render_tree, tree_references
from medic.steps.base import SCRIPTS_QUEUE, ActContext, Checks, Done, Failed, Outcome, ScriptResult
from medic.steps.output import fit_output, read_json
from medic.steps.parameters import bind

_TIMEOUT = timedelta(seconds=60)
# One environment string may have 128 KiB on Linux (MAX_ARG_STRLEN), name included.
_LONGEST_VALUE = 100_000
# Names by which whoever starts an execution could change what interpreter and loader do.
_RESERVED = re.compile(
    r"MEDIC_.*|PATH|HOME|USER|LOGNAME|SHELL|PWD|TMPDIR|LANG|LC_.*|TZ|IFS|ENV|CDPATH|GLOBIGNORE|PS4|PROMPT_COMMAND"
    r"|BASH.*|SHELLOPTS|LD_.*|DYLD_.*|GCONV_PATH|PYTHON.*|GIT_.*|SSL_.*|CURL_.*|REQUESTS_.*|.*_PROXY|.*_proxy"
)


@dataclass(frozen=True, slots=True)
class ScriptSpec:
    name: str
    parameters: Mapped
    args: Listed


@dataclass(frozen=True, slots=True)
class RenderedScript:
    name: str
    parameters: dict[str, Json] = field(repr=False)
    args: tuple[str, ...]
    variables: Mapping[str, Json] = field(repr=False)
    shown: dict[str, Json]


class ScriptStep:
    type: ClassVar[str] = "script"
    queue: ClassVar[str] = SCRIPTS_QUEUE
    acts: ClassVar[bool] = True
    parks: ClassVar[bool] = False
    times_out: ClassVar[bool] = True
    default_timeout: ClassVar[timedelta | None] = _TIMEOUT

    def parse(self, reader: Reader) -> ScriptSpec:
        if "script" in reader and "script_name" in reader:
            reader.problem("give script or script_name, not both", "script_name")
        key = "script_name" if "script_name" in reader and "script" not in reader else "script"
        return ScriptSpec(
            name=reader.text(key, required=True, longest=128).strip(),
            parameters=_read_parameters(reader),
            args=_read_args(reader),
        )

    def on_crash(self, _spec: ScriptSpec, /) -> Literal["retry", "ask"]:
        return "ask"

    def render(self, spec: ScriptSpec, scope: Scope, /) -> RenderedScript:
        parameters = {key.source: render_tree(child, scope) for key, child in spec.parameters.entries}
        args = tuple(
            _as_argument(render_tree(item, scope).value, at) for at, item in enumerate(spec.args.items)
        )
        values = {name: value.value for name, value in parameters.items()}
        shown: dict[str, Json] = {
            "script": spec.name,
            "parameters": {name: value.shown for name, value in parameters.items()},
            "args": list(args),
        }
        return RenderedScript(spec.name, values, args, scope.variables, shown)

    def rehearse(self, rendered: RenderedScript, checks: Checks, /) -> list[str]:
        script = checks.script(rendered.name)
        if checks.is_whole:
            bind(script.parameters, rendered.parameters)
        return []

    def act(self, rendered: RenderedScript, context: ActContext) -> Outcome:
        try:
            script = context.load_script(rendered.name)
            parameters = bind(script.parameters, rendered.parameters)
            env = _environment(rendered, parameters, context)
        except NotFound:
            return Failed("script_missing", f"No script called '{rendered.name}' is registered.")
        except Invalid as error:
            return Failed("invalid_parameters", context.redact(error.message))
        timeout = context.timeout or _TIMEOUT
        try:
            result = context.run_script(
                interpreter=script.interpreter,
                content=script.content,
                args=rendered.args,
                env=env,
                stdin=json.dumps(parameters, ensure_ascii=False).encode("utf-8", "replace"),
                timeout=timeout.total_seconds(),
                network=script.network,
                should_stop=context.should_stop,
                before_start=context.before_effect,
            )
        except SandboxUnavailable as error:
            return Failed("sandbox_unavailable", context.redact(error.message))
        except Invalid as error:
            return Failed("invalid_parameters", context.redact(error.message))
        return _judge(rendered.name, script.version, result, context, timeout)


def _read_parameters(reader: Reader) -> Mapped:
    inner = reader.mapping("parameters")
    tree: Tree = reader.tree("parameters") if inner is not None else None
    if inner is None or not isinstance(tree, Mapped):
        return Mapped(())
    for key, _ in tree.entries:
        if key.references:
            inner.problem("a parameter's name cannot hold a reference", key.source)
        elif not VARIABLE_NAME.fullmatch(key.source) or _RESERVED.fullmatch(key.source):
            inner.warning(
                "cannot be a variable of the script's environment; the script finds it on standard input",
                key.source,
            )
    return tree


def _read_args(reader: Reader) -> Listed:
    tree: Tree = reader.tree("args")
    if tree is None:
        return Listed(())
    if not isinstance(tree, Listed) or any(isinstance(item, Mapped | Listed | None) for item in tree.items):
        reader.problem("must be a list of single values", "args")
        return Listed(())
    reader.refuse_secrets("args", tree_references(tree), "other users can see arguments; use parameters")
    return tree


def _as_argument(value: Json, at: int) -> str:
    text = as_text(value, Reference("variable", f"args[{at}]"))
    if "\x00" in text or len(text.encode("utf-8", "replace")) > _LONGEST_VALUE:
        raise Invalid.at(f"args[{at}]", "has a NUL in it or is too long")
    return text


def _environment(
    rendered: RenderedScript, parameters: Mapping[str, Json], context: ActContext
) -> dict[str, str]:
    env = dict(context.base_environment)
    for name, value in {**rendered.variables, **parameters}.items():
        if value is None or not VARIABLE_NAME.fullmatch(name) or _RESERVED.fullmatch(name):
            continue
        text = as_text(value, Reference("variable", name))
        if "\x00" in text or len(text.encode("utf-8", "replace")) > _LONGEST_VALUE:
            raise Invalid.at(f"parameters.{name}", "has a NUL in it or is too long for an environment")
        env[name] = text
    ids = {"MEDIC_PLAYBOOK_ID": "PLAYBOOK_ID", "MEDIC_SERVICE_ID": "SERVICE_ID"}
    for name, source in ids.items():
        value = rendered.variables.get(source)
        env[name] = "" if value is None else str(value)
    env["MEDIC_EXECUTION_ID"] = context.execution_id
    env["MEDIC_IDEMPOTENCY_KEY"] = context.idempotency_key
    env["MEDIC_FENCING_TOKEN"] = str(context.epoch)
    return env


def _judge(name: str, version: int, result: ScriptResult, context: ActContext, timeout: timedelta) -> Outcome:
    output: dict[str, Json] = {
        "script": name,
        "version": version,
        "exit_code": result.exit_code,
        "signal": result.signal,
        "stdout": result.stdout,
        "stderr": result.stderr,
        "stdout_truncated": result.stdout_truncated,
        "stderr_truncated": result.stderr_truncated,
        "duration_ms": round(result.duration * 1000),
    }
    if not result.stdout_truncated and result.stdout.lstrip()[:1] in {"{", "["}:
        # What only looks like JSON is there as text all the same.
        with contextlib.suppress(ValueError):
            output["json"] = read_json(result.stdout)
    output = fit_output(output, context.redact)
    if result.stopped:
        return Failed("stopped", f"The script '{name}' was stopped.", output)
    if result.timed_out:
        message = f"The script '{name}' did not end within {timeout.total_seconds():g}s."
        return Failed("timeout", message, output, retryable=True)
    if result.exit_code == 0:
        return Done(output)
    if result.exit_code is not None:
        return Failed(
            "exit", f"The script '{name}' ended with exit code {result.exit_code}.", output, retryable=True
        )
    if result.signal is not None:
        return Failed(
            "signal", f"The script '{name}' was killed by signal {result.signal}.", output, retryable=True
        )
    return Failed("lost", f"What became of the script '{name}' is unknown.", output)
