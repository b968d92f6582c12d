"""The project's files agree: ranges, pins, conda, Binder, CI, README and what a wheel holds."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace
from zipfile import ZipFile

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

import lossbook
from tools import bootstrap

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
START_PAGE = "notebooks/00_start_here.ipynb"


def text(path):
    return (ROOT / path).read_text(encoding="utf-8")


def lines(path):
    """The lines of a requirements file, without comments."""
    bare = (line.split("#")[0].strip() for line in text(path).splitlines())
    return [line for line in bare if line]


def ranges():
    extras = PROJECT["optional-dependencies"]
    groups = [PROJECT["dependencies"], *extras.values()]
    return {canonicalize_name(r.name): r for g in groups for r in map(Requirement, g)}


def pins():
    return {canonicalize_name(r.name): r for r in map(Requirement, lines("constraints.txt"))}


# Ranges and pins


def test_ranges_have_a_lower_end_and_no_pin():
    for name, requirement in ranges().items():
        assert [s.operator for s in requirement.specifier] == [">="], name


def test_constraints_are_pins_without_a_build():
    assert len(pins()) == len(lines("constraints.txt"))
    for name, requirement in pins().items():
        (specifier,) = requirement.specifier
        assert specifier.operator == "==" and "+" not in specifier.version, name


@pytest.mark.parametrize("name", sorted(ranges()))
def test_every_dependency_is_pinned_within_its_range(name):
    (pin,) = pins()[name].specifier
    assert pin.version in ranges()[name].specifier


# Pythons


def supported_pythons():
    found = re.findall(r"Python :: (3\.\d+)", " ".join(PROJECT["classifiers"]))
    return sorted(found, key=lambda version: int(version.split(".")[1]))


def test_one_range_of_pythons():
    oldest, *_, newest = supported_pythons()
    assert PROJECT["requires-python"] == f">={oldest}"
    assert bootstrap.dotted(bootstrap.OLDEST) == oldest
    assert bootstrap.dotted(bootstrap.NEWEST) == newest
    assert f"Python {oldest} to {newest}" in text("README.md")
    for version in bootstrap.OLDEST, bootstrap.NEWEST:
        assert str(version) in text("Makefile")


def test_ci_runs_the_oldest_and_the_newest_python():
    jobs = yaml.safe_load(text(".github/workflows/ci.yml"))["jobs"]
    pythons = {
        name: [
            s["with"]["python-version"]
            for s in job["steps"]
            if "python-version" in s.get("with", {})
        ]
        for name, job in jobs.items()
    }
    oldest, *_, newest = supported_pythons()
    assert pythons["oldest"] == [oldest] and pythons["newest"] == [newest]
    assert set(pythons["fast"]) <= set(supported_pythons())


# Conda and Binder


def test_conda_and_binder_install_the_book_with_the_pins():
    environment = yaml.safe_load(text("environment.yml"))["dependencies"]
    python, pip = environment[0], environment[-1]["pip"]
    assert pip == ["--constraint constraints.txt", "--editable .[book]"]
    assert python.removeprefix("python=") in supported_pythons()
    assert text("binder/runtime.txt").strip() == python.replace("=", "-")
    assert lines("binder/requirements.txt") == [
        "--extra-index-url https://download.pytorch.org/whl/cpu",
        "--constraint ../constraints.txt",
        "--editable .[book]",
    ]


def test_binder_opens_the_start_page():
    assert f"/lab/tree/{START_PAGE}" in text("binder/postBuild")
    assert f"?urlpath=lab/tree/{START_PAGE}" in text("README.md")


# README, releases


def test_readme_names_commands_that_exist():
    targets = set(re.findall(r"^([a-z-]+):.*## ", text("Makefile"), re.MULTILINE))
    assert {"lab", "test", "test-fast", "test-full", "lint", "bench", "help"} <= targets
    named = set(
        re.findall(r"\bmake ([a-z-]+)", " ".join(re.findall(r"`[^`]+`", text("README.md"))))
    )
    assert named and named <= targets


def test_readme_says_how_to_install_without_make():
    assert 'pip install -c constraints.txt -e ".[book]"' in text("README.md")


def test_readme_links_to_files_that_exist():
    targets = re.findall(r"\]\((?!http)([^)#]+)\)", text("README.md"))
    assert START_PAGE in targets
    assert [target for target in targets if not (ROOT / target).exists()] == []


def test_readme_example_runs():
    (example,) = re.findall(r"```python\n(.*?)```", text("README.md"), re.DOTALL)
    exec(example, {})


def test_one_version():
    citation = yaml.safe_load(text("CITATION.cff"))
    (changes, *_) = re.findall(r"^## (\S+) \((\S+)\)$", text("CHANGELOG.md"), re.MULTILINE)
    assert (citation["version"], str(citation["date-released"])) == changes
    assert citation["version"] == lossbook.__version__
    assert citation["license"] == PROJECT["license"]


# What is built


def test_wheel_holds_the_catalog_and_the_server_configuration(tmp_path):
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel"]
    subprocess.run([*command, "--directory", tmp_path], cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = ZipFile(wheel).namelist()
    for path in (ROOT / "lossbook" / "catalog").glob("*.yml"):
        assert f"lossbook/catalog/{path.name}" in names
    data = f"lossbook-{lossbook.__version__}.data/data"
    assert f"{data}/etc/jupyter/jupyter_server_config.d/lossbook.json" in names


# The script behind make


@pytest.mark.parametrize("version, refused", [((3, 10), True), ((3, 11), False), ((3, 15), True)])
def test_bootstrap_refuses_other_pythons(monkeypatch, version, refused):
    monkeypatch.setattr(bootstrap, "sys", fake_sys(version_info=(*version, 0)))
    assert bool(bootstrap.unsupported()) is refused


@pytest.mark.parametrize("machine, refused", [("x86_64", True), ("arm64", False)])
def test_bootstrap_refuses_intel_macs(monkeypatch, machine, refused):
    monkeypatch.setattr(bootstrap, "sys", fake_sys(platform="darwin"))
    monkeypatch.setattr(bootstrap.platform, "machine", lambda: machine)
    assert bool(bootstrap.unsupported()) is refused


def fake_sys(**changes):
    real = {"version_info": (3, 11, 0), "platform": "linux", "executable": "python3"}
    return SimpleNamespace(**{**real, **changes})


@pytest.fixture
def installs(monkeypatch, tmp_path):
    """The calls of pip that a set-up would make, in a folder of its own."""
    calls = []
    monkeypatch.setattr(bootstrap, "STAMP", tmp_path / "stamp.txt")
    monkeypatch.setattr(bootstrap, "works", lambda python: True)
    monkeypatch.setattr(bootstrap, "installed_torch", lambda: "")
    monkeypatch.setattr(bootstrap, "pip", lambda *arguments: calls.append(arguments))
    monkeypatch.setattr(bootstrap, "sys", fake_sys())
    monkeypatch.setattr(bootstrap, "has_nvidia_gpu", lambda: False)
    monkeypatch.setattr(bootstrap, "cpu_index_has", lambda version: True)
    return calls


def test_bootstrap_installs_once(installs, tmp_path):
    constraints = tmp_path / "pins.txt"
    constraints.write_text("torch==2.5.0\n")
    bootstrap.set_up(["book", "test"], constraints)
    bootstrap.set_up(["book"], constraints)
    cpu_build, package = installs
    assert cpu_build == ("--no-deps", "torch==2.5.0", "--index-url", bootstrap.CPU_INDEX)
    assert package[:2] == ("--editable", f"{ROOT}[book,test]")
    constraints.write_text("torch==2.6.0\n")
    bootstrap.set_up(["book"], constraints)
    assert installs[2][1] == "torch==2.6.0" and installs[3][1].endswith("[book,test]")


@pytest.mark.parametrize(
    "gpu, reachable, size", [(True, True, "2.7 GB"), (False, True, "200 MB"), (False, False, "or")]
)
def test_bootstrap_says_what_it_downloads(installs, monkeypatch, capsys, gpu, reachable, size):
    monkeypatch.setattr(bootstrap, "has_nvidia_gpu", lambda: gpu)
    monkeypatch.setattr(bootstrap, "cpu_index_has", lambda version: reachable)
    bootstrap.install_torch("2.13.0")
    assert size in capsys.readouterr().out
    assert bool(installs) is (reachable and not gpu)


def test_pinned_torch_is_read_from_the_constraints():
    (pin,) = pins()["torch"].specifier
    assert bootstrap.pinned_torch(ROOT / "constraints.txt") == pin.version
    assert SpecifierSet(">=2.5").contains(pin.version)
