"""What nvidia-smi says of this machine's GPUs; with a broken driver it fails, prints anything, or never ends."""

import shutil
import subprocess

from tuneline.core.errors import StageFailed

TIMEOUT_S = 20.0
"""A driver that is well answers within seconds, also where it has to be loaded first."""
SHOWN = 200
"""Characters of its output in an error."""


def run_nvidia_smi(*arguments: str) -> str | None:
    """Return what nvidia-smi prints, or None if there is no nvidia-smi.

    Raises:
        StageFailed: it cannot be started, fails, or does not end within `TIMEOUT_S`.
    """
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    try:
        process = subprocess.run([program, *arguments], capture_output=True, timeout=TIMEOUT_S, check=False)
    except OSError as error:
        raise StageFailed(f"{program} cannot be started: {error.strerror}") from None
    except subprocess.TimeoutExpired:
        raise StageFailed(f"{program} did not end within {TIMEOUT_S:.0f} s") from None
    output = (process.stdout + process.stderr).decode(errors="replace").strip()
    if process.returncode:
        raise StageFailed(f"{program} ended with {process.returncode}: {output[:SHOWN]}")
    return output
