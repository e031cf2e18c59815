"""Write the systemd user unit that starts the platform after a reboot."""

import os
import sys
from pathlib import Path

from flows.platform.launch import PID_FILE
from flows.platform.start import PlatformOptions
from flows.platform.state import folder
from rlhf_core.errors import BadInput
from tasks.execution.stage_python import VARIABLE, is_separate, stage_python
from tasks.records.workspace import Workspace

VARIABLES = "environment"  # the file of further variables, in the folder of the platform
PROGRAMS = "/usr/local/bin:/usr/bin:/bin"
UNIT = """\
# Made by rlhf up --systemd. It holds no secret: variables with secrets go into the file below.
[Unit]
Description=RLHF platform of {description}
StartLimitIntervalSec=1800
StartLimitBurst=5

[Service]
# The process of the unit is the keeper, which starts the servers and the worker again.
Type=forking
PIDFile={pid_file}
WorkingDirectory={directory}
Environment={home}
Environment={path}
{stages}EnvironmentFile=-{variables}
ExecStart={start}
# A keeper that was killed leaves the servers and the runs going: the next start takes them over.
ExecStop=/bin/sh -c 'test -z "$$MAINPID" || exec "$$0" down' {program}
KillMode=process
OOMPolicy=continue
Restart=on-failure
RestartSec=5
TimeoutStartSec=600
TimeoutStopSec=180

[Install]
WantedBy=default.target
"""


def unit(workspace: Workspace, options: PlatformOptions) -> str:
    """Return the unit that starts the platform of this workspace with these options.

    Raises BadInput for what a unit cannot say.
    """
    if not options.restart:
        raise BadInput(
            "--systemd and --no-restart exclude each other: the unit's process is the keeper, which"
            " starts again what dies. Leave one of them out."
        )
    own = folder(workspace)
    program = Path(sys.executable).with_name("rlhf")
    if not program.exists():
        raise BadInput(
            f"there is no program {program}; expected the package installed beside {sys.executable}"
            " (pip install rlhf-pipeline, or make setup)."
        )
    words = [str(program), "up", *_words(options)]
    return UNIT.format(
        description=_setting(str(workspace.home)),
        pid_file=_setting(str(own / PID_FILE)),
        directory=_setting(os.getcwd()),
        home=_quoted(f"RLHF_HOME={workspace.home}"),
        stages=_stages(),
        path=_quoted(f"PATH={program.parent}:{PROGRAMS}"),
        variables=_setting(str(own / VARIABLES)),
        start=" ".join(_quoted(word).replace("$", "$$") for word in words),
        program=_quoted(str(program)).replace("$", "$$"),
    )


def instructions(workspace: Workspace, name: str = "rlhf") -> str:
    """Return how the unit is installed, and where variables with secrets go."""
    return (
        f"write it to ~/.config/systemd/user/{name}.service, then:\n"
        "  rlhf down                                # what was started by hand\n"
        "  systemctl --user daemon-reload\n"
        f"  systemctl --user enable --now {name}\n"
        "  sudo loginctl enable-linger $USER        # start at boot, not at login\n"
        f"further variables (RLHF_DATABASE_URL, CUDA_HOME, PATH): {folder(workspace) / VARIABLES},"
        " mode 600"
    )


def _words(options: PlatformOptions) -> list[str]:
    given = {
        "--prefect-port": options.prefect_port,
        "--port": options.mlflow_port,
        "--page-port": options.page_port,
        "--pool": options.pool,
        "--limit": options.limit,
    }
    return [
        text for name, value in given.items() if value is not None for text in (name, f"{value}")
    ]


def _stages() -> str:
    """Return the setting of the interpreter of the stages, where it is another one."""
    return f"Environment={_quoted(f'{VARIABLE}={stage_python()}')}\n" if is_separate() else ""


def _setting(text: str) -> str:
    """Return a text as a setting takes it: to the end of the line, % doubled.

    Raises BadInput for a line break.
    """
    if "\n" in text or "\r" in text:
        raise BadInput(
            f"{text!r} has a line break, which no systemd unit can name; expected a path without."
        )
    return text.replace("%", "%%")


def _quoted(text: str) -> str:
    """Return a text as one word of a setting that takes several."""
    escaped = _setting(text).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
