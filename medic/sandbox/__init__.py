"""Scripts run here: caged by the kernel, bounded, and gone with all they started when they end."""

from medic.sandbox.environment import build_environment, check_additional_names
from medic.sandbox.folders import default_base, remove_leftovers
from medic.sandbox.model import Limits, SandboxStatus, ScriptResult
from medic.sandbox.runner import probe, run_script

__all__ = [
    "Limits",
    "SandboxStatus",
    "ScriptResult",
    "build_environment",
    "check_additional_names",
    "default_base",
    "probe",
    "remove_leftovers",
    "run_script",
]
