import pytest
import torch

from lossbook.settings import Run, configure


@pytest.fixture(autouse=True)
def no_scale_from_outside(monkeypatch):
    monkeypatch.delenv("LOSSBOOK_SCALE", raising=False)


@pytest.mark.parametrize(("scale", "expected"), [("smoke", 2), ("quick", 8), ("full", 20)])
def test_pick_takes_the_value_of_the_scale(scale, expected):
    assert configure(scale, 0, "cpu").pick(smoke=2, quick=8, full=20) == expected


def test_the_environment_wins_over_the_notebook(monkeypatch):
    monkeypatch.setenv("LOSSBOOK_SCALE", "smoke")
    assert configure("full", 0, "cpu").scale == "smoke"
    monkeypatch.setenv("LOSSBOOK_SCALE", "")
    assert configure("full", 0, "cpu").scale == "full"


def test_configure_seeds_torch():
    run = configure("quick", 3, "cpu")
    first = torch.rand(2)
    assert run.seed == 3
    configure("quick", 3, "cpu")
    assert torch.equal(torch.rand(2), first)


def test_configure_prints_one_line(capsys):
    configure("quick", 0, "cpu")
    line = capsys.readouterr().out
    assert line.startswith("quick scale, cpu, ")
    assert line.count("\n") == 1


@pytest.mark.parametrize(
    ("cuda", "mps", "expected"),
    [(True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")],
)
def test_auto_prefers_cuda_then_mps(monkeypatch, cuda, mps, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: int(cuda))
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    monkeypatch.setattr(torch, "manual_seed", lambda seed: None)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    assert configure("quick", 0, "auto").device == torch.device(expected)


@pytest.mark.parametrize(
    ("scale", "device", "has_it", "expected"),
    [
        ("full", "cuda", True, "bfloat16"),
        ("full", "cuda", False, "float32"),
        ("quick", "cuda", True, "float32"),
        ("full", "cpu", True, "float32"),
    ],
)
def test_bfloat16_is_for_full_scale_on_a_gpu_that_has_it(
    monkeypatch, scale, device, has_it, expected
):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: has_it)
    assert Run(scale, 0, torch.device(device)).precision == expected


@pytest.mark.parametrize(
    ("scale", "device", "expected"),
    [("full", "cuda", 256), ("quick", "cuda", 32), ("full", "cpu", 32), ("full", "mps", 32)],
)
def test_hidden_layers_are_wider_at_full_scale_on_a_gpu(scale, device, expected):
    assert Run(scale, 0, torch.device(device)).units(32) == expected


def test_a_gpu_run_says_what_it_uses(monkeypatch, capsys):
    monkeypatch.setattr(torch, "manual_seed", lambda seed: None)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    configure("full", 0, "cuda")
    configure("quick", 0, "cuda")
    assert capsys.readouterr().out.splitlines() == [
        "full scale, cuda, a GPU, bfloat16 where safe, hidden layers 8 times as wide",
        "quick scale, cuda, a GPU, float32",
    ]


@pytest.mark.no_typecheck
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("huge", 0, "cpu"), "scale must be one of 'smoke', 'quick', 'full', got 'huge'"),
        (("quick", -1, "cpu"), "seed must be a whole number, 0 or greater, got -1"),
        (("quick", 0.5, "cpu"), "seed must be a whole number, 0 or greater, got 0.5"),
        (("quick", 0, "tpu"), "device must be one of 'auto', 'cpu', 'cuda', 'mps', got 'tpu'"),
        (
            ("quick", 0, "cuda:x"),
            "device must be one of 'auto', 'cpu', 'cuda', 'mps', got 'cuda:x'",
        ),
    ],
)
def test_bad_values_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        configure(*arguments)


def test_a_bad_environment_variable_is_named(monkeypatch):
    monkeypatch.setenv("LOSSBOOK_SCALE", "tiny")
    with pytest.raises(ValueError, match="LOSSBOOK_SCALE must be one of"):
        configure("quick", 0, "cpu")


def test_a_missing_gpu_is_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(ValueError, match="'cuda' was asked for"):
        configure("quick", 0, "cuda")
    with pytest.raises(ValueError, match="'mps' was asked for"):
        configure("quick", 0, "mps")
