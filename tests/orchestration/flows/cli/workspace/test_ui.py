"""`rlhf ui`: both pages are served, and nothing is left behind."""

import signal
import socket
import subprocess

from command_line import RLHF

from flows.platform.pages import free_port


def test_ui_refuses_a_taken_port(rlhf):
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        code, _, err = rlhf("ui", "--no-browser", "--port", server.getsockname()[1])
    assert code == 2 and "is taken" in err


def test_ui_serves_both_pages_and_leaves_nothing_behind(home):
    from flows.platform.pages import answers

    ports = (free_port(), free_port())
    command = [
        *RLHF,
        "ui",
        "--no-browser",
        "--port",
        str(ports[0]),
        "--prefect-port",
        str(ports[1]),
    ]
    ui = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    lines = [ui.stdout.readline() for _ in range(3)]
    assert lines[-1].startswith("Ctrl-C"), f"ended with {ui.wait(30)}"
    assert [line.split()[-1] for line in lines[:2]] == [
        f"http://127.0.0.1:{port}" for port in ports
    ]
    assert answers(f"http://127.0.0.1:{ports[0]}/health") and answers(
        f"http://127.0.0.1:{ports[1]}/api/health"
    )
    ui.send_signal(signal.SIGTERM)
    assert ui.wait(30) == 0
    assert not answers(f"http://127.0.0.1:{ports[0]}/health") and not answers(
        f"http://127.0.0.1:{ports[1]}/api/health"
    )
    ui.stdout.close()
