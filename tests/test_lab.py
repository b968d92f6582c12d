"""JupyterLab's command line: where, on which port, with a browser or without."""

import os
import socket
import sys
import webbrowser
from pathlib import Path

import pytest

from lossbook import lab


@pytest.fixture
def taken():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_it_opens_the_start_page_from_the_checkout():
    port = free_port()
    line = lab.command(Path("/book with spaces"), port)
    assert line[:3] == [sys.executable, "-m", "jupyterlab"]
    assert f"--ServerApp.root_dir={Path('/book with spaces')}" in line
    assert f"--ServerApp.port={port}" in line
    assert "--ServerApp.ip=localhost" in line
    assert "--LabApp.default_url=/lab/tree/notebooks/00_start_here.ipynb" in line
    assert not any("token" in option for option in line)  # Jupyter makes one


def test_a_given_port_in_use_is_an_error(taken):
    with pytest.raises(ValueError, match=f"port {taken} is in use; choose another"):
        lab.command(Path("/book"), taken)


def test_without_a_port_it_takes_the_next_free_one(taken, monkeypatch, capsys):
    monkeypatch.setattr(lab, "FIRST_PORT", taken)
    (port,) = [option for option in lab.command(Path("/book")) if "ServerApp.port=" in option]
    assert int(port.split("=")[1]) > taken
    assert f"port {taken} is in use; serving on" in capsys.readouterr().err


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="Windows has no root")
def test_root_is_allowed(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert "--allow-root" in lab.command(Path("/book"), free_port())
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert "--allow-root" not in lab.command(Path("/book"), free_port())


def test_no_browser_where_there_is_none(monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    assert "--no-browser" in lab.command(Path("/book"), free_port())

    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(webbrowser, "get", lambda: object())
    assert "--no-browser" not in lab.command(Path("/book"), free_port())

    def no_browser():
        raise webbrowser.Error

    monkeypatch.setattr(webbrowser, "get", no_browser)
    assert "--no-browser" in lab.command(Path("/book"), free_port())
