"""Set up `.venv` for the book, and a browser for its tests.

`make` runs this with the machine's own Python, before anything is installed: it needs the standard
library only, and must still parse on an old Python to say that it is too old.
"""

import argparse
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.error import URLError
from urllib.parse import unquote
from urllib.request import urlopen

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / "lossbook-setup.txt"
SERVER_CONFIG = ROOT / "lossbook/_jupyter/jupyter_server_config.d/lossbook.json"
OLDEST, NEWEST = (3, 11), (3, 14)  # what the pinned packages have builds for
CPU_INDEX = "https://download.pytorch.org/whl/cpu"

# What was downloaded for torch 2.13.0, dependencies included, and for the rest, in November 2026.
CPU_BUILD, CUDA_BUILD = "200 MB", "2.7 GB"
OTHERS = {
    "book": "160 MB",
    "test": "95 MB",
    "sweep": "60 MB",
    "bench": "1 MB",
    "site": "14 MB",
    "course": "20 MB",
}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("extras", nargs="+", choices=(*OTHERS,), help="parts to install")
    parser.add_argument("--constraints", type=Path, default=ROOT / "constraints.txt")
    parser.add_argument("--browser", action="store_true", help="also provide Chromium")
    options = parser.parse_args()
    reason = unsupported()
    if reason:
        sys.exit(reason)
    set_up(options.extras, options.constraints.resolve())
    if options.browser:
        provide_browser()


def unsupported():
    """Why the book cannot be installed here, in a sentence; None if it can."""
    if not OLDEST <= sys.version_info[:2] <= NEWEST:
        return (
            f"Lossbook needs Python {dotted(OLDEST)} to {dotted(NEWEST)}, and {sys.executable} is "
            f"{platform.python_version()}: install one of them, or name it: make PYTHON=python3.12"
        )
    if sys.platform == "darwin" and platform.machine() == "x86_64":
        return (
            "Lossbook needs Apple silicon on a Mac, since PyTorch has no builds for Intel Macs "
            "(on Apple silicon, use a Python for arm64)."
        )
    return None


def dotted(version):
    return ".".join(map(str, version))


# The environment


def set_up(extras, constraints):
    """Install the package in place with its extras, unless just that has been done."""
    state = fingerprint(constraints)
    done, *installed = STAMP.read_text().split() if STAMP.exists() and works(PYTHON) else [""]
    if done == state and set(extras) <= set(installed):
        return
    extras = sorted({*extras, *installed})
    if STAMP.exists():
        STAMP.unlink()
    create_venv()
    install_torch(pinned_torch(constraints))
    print("The other packages: about " + " and ".join(OTHERS[e] for e in extras) + ".", flush=True)
    pip("--editable", "{}[{}]".format(ROOT, ",".join(extras)), "--constraint", str(constraints))
    STAMP.write_text(" ".join([state, *extras]) + "\n")


def fingerprint(constraints):
    """A digest of everything that the environment depends on."""
    digest = hashlib.sha256(str(ROOT).encode())
    for path in (ROOT / "pyproject.toml", constraints, SERVER_CONFIG):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def create_venv():
    if works(PYTHON):
        return
    try:
        import ensurepip  # noqa: F401
    except ImportError:
        sys.exit(
            f"{sys.executable} has no venv: install it "
            f"(on Debian and Ubuntu: apt-get install python{dotted(sys.version_info[:2])}-venv)."
        )
    print(f"Creating {VENV} with Python {platform.python_version()}.", flush=True)
    run(sys.executable, "-m", "venv", "--clear", str(VENV))


def pinned_torch(constraints):
    return re.search(r"^torch==(\S+)", constraints.read_text(), re.MULTILINE).group(1)


def install_torch(version):
    """Install PyTorch by itself first: its CPU build where no GPU would use another."""
    if installed_torch() == version:
        return
    if not sys.platform.startswith("linux"):
        say_torch(version, "about 120 MB")
    elif has_nvidia_gpu():
        say_torch(version, f"CUDA build, about {CUDA_BUILD}")
    elif cpu_index_has(version):
        say_torch(version, f"CPU build, about {CPU_BUILD}")
        pip("--no-deps", f"torch=={version}", "--index-url", CPU_INDEX)
    else:
        print(f"{CPU_INDEX} cannot be reached or lacks this build: using your package index.")
        say_torch(version, f"about {CPU_BUILD} as a CPU build, {CUDA_BUILD} as a CUDA build")


def say_torch(version, size):
    print(f"PyTorch {version}: {size} to download.", flush=True)


def installed_torch():
    code = "from importlib.metadata import version as v; print(v('torch').split('+')[0])"
    return output(str(PYTHON), "-c", code)


def has_nvidia_gpu():
    return bool(shutil.which("nvidia-smi")) or Path("/dev/nvidia0").exists()


def cpu_index_has(version):
    """Whether PyTorch's CPU index can be reached and has this version for this Python."""
    try:
        with urlopen(f"{CPU_INDEX}/torch/", timeout=5) as page:
            listing = unquote(page.read().decode())
    except (URLError, OSError):
        return False
    python = "cp{}{}".format(*sys.version_info[:2])
    return f"torch-{version}+cpu-{python}-{python}-" in listing


def pip(*arguments):
    run(str(PYTHON), "-m", "pip", "install", "--disable-pip-version-check", *arguments)


# The browser


def provide_browser():
    """Make sure that a Chromium which starts is there: Debian's, an installed one, Playwright's."""
    if find_browser():
        return
    root = hasattr(os, "geteuid") and os.geteuid() == 0
    system = distribution()
    print("Chromium for the browser tests: about 200 MB to download.", flush=True)
    if root and system == "debian":
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        run("apt-get", "update", env=environment)
        run("apt-get", "install", "-y", "--no-install-recommends", "chromium", env=environment)
    else:
        # Ubuntu's package is a snap, which does not run in containers.
        with_libraries = ["--with-deps"] if root and system == "ubuntu" else []
        run(str(PYTHON), "-m", "playwright", "install", *with_libraries, "chromium")
    if not find_browser():
        sys.exit(
            "Chromium does not start here; it may lack libraries. Install Chromium or Chrome with "
            "the system's package manager, or as root: "
            f"{PYTHON} -m playwright install-deps chromium"
        )


def find_browser(python=PYTHON):
    """The path of a Chromium or Chrome that starts, or None; the browser tests use it too."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
    candidates = [shutil.which(name) for name in names]
    candidates += ["/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"]
    for path in filter(None, [*candidates, playwrights_browser(python)]):
        is_snap = os.path.realpath(path).startswith(("/snap/", "/usr/bin/snap"))
        if not is_snap and output(path, "--version"):
            return path
    return None


def playwrights_browser(python):
    code = (
        "from playwright.sync_api import sync_playwright as start\n"
        "with start() as playwright: print(playwright.chromium.executable_path)"
    )
    return output(str(python), "-c", code)


def distribution():
    """The ID of the Linux distribution, such as "debian"; empty elsewhere."""
    release = Path("/etc/os-release")
    found = (
        re.search(r'^ID="?([\w-]+)', release.read_text(), re.MULTILINE)
        if release.exists()
        else None
    )
    return found.group(1) if found else ""


# Processes


def run(*command, env=None):
    """Run a command; end with its exit status if it fails."""
    status = subprocess.call(command, env=env)
    if status:
        sys.exit("failed with status {}: {}".format(status, " ".join(command)))


def output(*command):
    """What a command prints; empty if it cannot be run or fails."""
    try:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return "" if done.returncode else done.stdout.decode().strip()


def works(python):
    return bool(output(str(python), "-m", "pip", "--version"))


if __name__ == "__main__":
    main()
