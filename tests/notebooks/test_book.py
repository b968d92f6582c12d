"""The committed notebooks keep their contract, and the catalog points to what exists."""

import pytest

from lossbook import contract, notebooks


@pytest.mark.parametrize("path", notebooks.written(), ids=lambda path: path.stem)
def test_the_notebook_keeps_the_contract(path):
    findings = contract.check(path, notebooks.read(path))
    assert not findings, "\n".join(findings)


def test_the_catalog_points_to_what_exists():
    findings = contract.check_catalog()
    assert not findings, "\n".join(findings)
