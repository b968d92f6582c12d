"""Parameters cells are read with their ranges, and -p values are checked against them."""

import nbformat.v4 as v4
import pytest

from lossbook import parameters, settings

CELL = """\
scale = "quick"  # one of: smoke, quick, full
seed = 0
device = "auto"
temperature = 0.1  # 0.02 .. 2
ms_beta: float = 40  # sharpness on negatives, 5 .. 80
margin = -0.5  # -1. .. +1e0
mine = True
kind = "cosine"  # one of: cosine, "euclidean"
grid = [0.1, 0.2]  # 0.1 .. 1
free = 3  # see section 2.1
derived = seed + 1
"""


def notebook(source):
    cell = v4.new_code_cell(source, metadata={"tags": ["parameters"]})
    return v4.new_notebook(cells=[v4.new_code_cell("other = 1"), cell])


KNOWN = parameters.parse(notebook(CELL))


def test_ranges_and_choices_come_from_comments():
    assert list(KNOWN) == [
        "scale", "seed", "device", "temperature", "ms_beta", "margin", "mine", "kind", "grid",
        "free",
    ]  # fmt: skip
    ends = {name: parameter.ends for name, parameter in KNOWN.items()}
    assert ends["temperature"] == (0.02, 2)
    assert ends["ms_beta"] == (5, 80)
    assert ends["margin"] == (-1, 1)
    assert ends["mine"] == (False, True)
    assert ends["kind"] == ("cosine", "euclidean")
    assert ends["grid"] == ([0.1], [1])
    assert ends["free"] is None


def test_defaults_lie_in_their_ranges_or_not():
    assert all(parameter.contains_default for parameter in KNOWN.values())
    outside = parameters.parse(notebook("a = 3  # 0 .. 1\nb = 'x'  # one of: y, z"))
    assert not any(parameter.contains_default for parameter in outside.values())


@pytest.mark.parametrize(
    "text, value",
    [
        ("temperature=0.5", 0.5),
        ("temperature=1e-3", 1e-3),
        ("temperature = .5", 0.5),
        ("seed=3", 3),
        ("seed=1e2", 100),
        ("mine=false", False),
        ("kind=euclidean", "euclidean"),
        ("kind='cosine'", "cosine"),
        ("grid=[1e-1, 2]", [0.1, 2]),
        ("device=cuda:0", "cuda:0"),
    ],
)
def test_values_are_yaml(text, value):
    name = text.split("=")[0].strip()
    (got,) = parameters.assign([text], KNOWN).values()
    assert got == value and type(got) is type(value)
    assert name in parameters.assign([text], KNOWN)


@pytest.mark.parametrize(
    "text, message",
    [
        ("temprature=1", "no parameter 'temprature'; did you mean temperature?\nits parameters: s"),
        ("temperature", "-p must be name=value, got 'temperature'"),
        ("=1", "-p must be name=value, got '=1'"),
        ("temperature=hot", "temperature must be a number, got 'hot'"),
        ("temperature=true", "temperature must be a number, got True"),
        ("temperature=[1", "temperature has a value that is not YAML: '[1'"),
        ("mine=3", "mine must be true or false, got 3"),
        ("kind=cosin", "kind must be one of cosine, euclidean, got 'cosin'; did you mean cosine?"),
        ("scale=quik", "scale must be one of smoke, quick, full, got 'quik'; did you mean quick?"),
        ("grid=1", "grid must be a list such as [1, 2], got 1"),
    ],
)
def test_bad_assignments_say_what_is_allowed(text, message):
    with pytest.raises(ValueError) as caught:
        parameters.assign([text], KNOWN)
    assert message in str(caught.value)


def test_a_notebook_without_parameters_has_none():
    assert parameters.parse(v4.new_notebook()) == {}
    assert parameters.own_scale(v4.new_notebook()) == "quick"
    with pytest.raises(ValueError, match="parameters cell is not Python"):
        parameters.parse(notebook("scale ="))


def test_the_scales_are_those_of_the_settings():
    assert parameters.SCALES == settings.SCALES
