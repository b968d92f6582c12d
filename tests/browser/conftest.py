"""One JupyterLab server and one Chromium for all browser tests."""

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import matplotlib
import nbformat
import pytest

CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
LAB_SETTINGS = {
    "@jupyterlab/apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
}
LAB = "window.jupyterapp"
NOTEBOOK = f"{LAB}.shell.currentWidget.content"
ERROR_LINE = ".lossbook-error"
EVALUATE = f"""
async code => {{
  const kernel = {LAB}.shell.currentWidget.sessionContext.session.kernel;
  const future = kernel.requestExecute({{ code, store_history: false }});
  let text = '';
  future.onIOPub = ({{ content }}) => {{ text += content.text ?? content.evalue ?? ''; }};
  await future.done;
  return text;
}}
"""


class LabServer:
    """JupyterLab on a free port, with a home and a configuration of its own."""

    def __init__(self, home: Path):
        self.home = home
        self.folder = home / "book"
        self.folder.mkdir(parents=True)
        self.token = secrets.token_hex(16)
        self.process = None
        for plugin, settings in LAB_SETTINGS.items():
            path = home / "settings" / f"{plugin}.jupyterlab-settings"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(settings))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.log = (self.home / "server.log").open("a")
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"),
                *("--ip=127.0.0.1", f"--port={self.port}", "--ServerApp.port_retries=0"),
                f"--ServerApp.root_dir={self.folder}",
                f"--IdentityProvider.token={self.token}",
                "--ServerApp.terminals_enabled=False",
                "--LabApp.expose_app_in_browser=True",
                "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
            ],
            env=self._environment(),
            stdout=self.log,
            stderr=subprocess.STDOUT,
        )
        self._await_answer(seconds=60)

    def stop(self) -> None:
        """End the server and its kernels."""
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()

    def restart(self) -> None:
        self.stop()
        self.start()

    def add(self, name: str, *sources: str) -> str:
        """Write a notebook with these code cells; returns its path on the server."""
        notebook = nbformat.v4.new_notebook(
            cells=[nbformat.v4.new_code_cell(source) for source in sources],
            metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}},
        )
        nbformat.write(notebook, self.folder / name)
        return name

    def copy(self, path: Path) -> str:
        shutil.copy(path, self.folder / path.name)
        return path.name

    def saved(self, name: str) -> dict:
        return json.loads((self.folder / name).read_text())

    def _environment(self) -> dict[str, str]:
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("JUPYTER")}
        folders = {
            "HOME": "",
            "IPYTHONDIR": "ipython",
            "JUPYTER_CONFIG_DIR": "config",
            "JUPYTER_DATA_DIR": "data",
            "JUPYTER_RUNTIME_DIR": "runtime",
            "JUPYTERLAB_SETTINGS_DIR": "settings",
            "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
        }
        return {
            **inherited,
            **{name: str(self.home / folder) for name, folder in folders.items()},
            "LOSSBOOK_SCALE": "smoke",
            "MPLCONFIGDIR": matplotlib.get_cachedir(),  # its list of fonts takes seconds to make
        }

    def _await_answer(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                urllib.request.urlopen(f"{self.url}/api?token={self.token}", timeout=2).close()
                return
            except OSError:
                time.sleep(0.2)
        raise RuntimeError(f"JupyterLab did not start:\n{(self.home / 'server.log').read_text()}")


class LabNotebook:
    """A notebook open in JupyterLab, with what the browser's console said about it."""

    def __init__(self, server: LabServer, page, name: str):
        self.page = page
        self.console_errors: list[str] = []
        page.on("console", lambda m: m.type == "error" and self.console_errors.append(m.text))
        page.on("pageerror", lambda error: self.console_errors.append(str(error)))
        page.goto(f"{server.url}/lab/tree/{name}?reset&token={server.token}")
        page.wait_for_selector(".jp-Notebook .jp-Cell")
        page.wait_for_function(f"{LAB}?.shell.currentWidget?.sessionContext?.isReady")

    def output(self, index: int):
        """What stands below a cell."""
        return self.page.locator(".jp-Notebook .jp-Cell").nth(index).locator(".jp-OutputArea")

    def command(self, name: str) -> None:
        """Run a command of JupyterLab and wait for its end."""
        self.page.evaluate(f"name => {LAB}.commands.execute(name)", name)

    def run_all(self) -> None:
        self.command("notebook:run-all-cells")

    def run(self, index: int) -> None:
        self.page.evaluate(f"i => {{ {NOTEBOOK}.activeCellIndex = i; }}", index)
        self.command("notebook:run-cell")

    def evaluate(self, expression: str) -> str:
        """What the kernel prints for an expression, asked beside the notebook's cells."""
        return self.page.evaluate(EVALUATE, f"print({expression})").strip()

    def shows_new_picture(self, image, before: str, seconds: float) -> bool:
        """Whether an image shows something else within some seconds."""
        from playwright.sync_api import TimeoutError as TookTooLong

        try:
            self.wait_for_new_picture(image, before, seconds)
        except TookTooLong:
            return False
        return True

    def wait_for_new_picture(self, image, before: str, seconds: float = 20) -> None:
        """Wait until an image shows something else, or a widget shows an error."""
        self.page.wait_for_function(
            """([image, before, error]) => document.querySelector(error) ||
            (image.src !== before && image.complete && image.naturalWidth)""",
            arg=[image.element_handle(), before, ERROR_LINE],
            timeout=1000 * seconds,
        )

    def is_trusted(self) -> bool:
        return self.page.evaluate(f"[...{NOTEBOOK}.model.cells].every(cell => cell.trusted)")

    def failures(self) -> list[str]:
        """Exceptions, console errors and dead widgets: all that a reader must not see."""
        cells = self.page.evaluate(f"{NOTEBOOK}.model.toJSON()")["cells"]
        outputs = [output for cell in cells for output in cell.get("outputs", [])]
        return [
            *(f"{o['ename']}: {o['evalue']}" for o in outputs if o["output_type"] == "error"),
            *self.page.locator(ERROR_LINE).all_inner_texts(),
            *self.page.get_by_text("Error displaying widget").all_inner_texts(),
            *self.console_errors,
        ]


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    server = LabServer(tmp_path_factory.mktemp("jupyter"))
    server.start()
    yield server
    server.stop()


# Not for the session: Playwright keeps an asyncio loop running in the thread that uses it, which
# later tests of the same process would see.
@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=_chromium(), args=CHROMIUM_FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def notebooks_opened(server, browser):
    """A context in which notebooks are opened; their pages and kernels end with it."""

    @contextmanager
    def opened():
        contexts = []

        def open_(name: str) -> LabNotebook:
            contexts.append(browser.new_context(viewport={"width": 1280, "height": 900}))
            return LabNotebook(server, contexts[-1].new_page(), name)

        yield open_
        for context in contexts:
            context.close()
        _end_kernels(server)

    return opened


@pytest.fixture
def open_notebook(notebooks_opened):
    """Open a notebook by its path on the server; its page and kernel end with the test."""
    with notebooks_opened() as open_:
        yield open_


def _chromium() -> str | None:
    """The system's browser; None lets Playwright take its own."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return next((path for path in map(shutil.which, names) if path), None)


def _end_kernels(server: LabServer) -> None:
    def call(path: str, method: str) -> bytes:
        headers = {"Authorization": f"token {server.token}"}
        request = urllib.request.Request(server.url + path, headers=headers, method=method)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.read()

    for session in json.loads(call("/api/sessions", "GET")):
        call(f"/api/sessions/{session['id']}", "DELETE")
