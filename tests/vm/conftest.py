"""The virtual machine for the tests in this folder, which skip where there is none."""

from __future__ import annotations

import os

import pytest

from tests.vm.machine import Machine, NoMachine


@pytest.fixture(scope="session")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    if not os.environ.get("EDGEINFER_TEST_VM"):
        pytest.skip("takes minutes: set EDGEINFER_TEST_VM=1, as CI does")
    try:
        return Machine(tmp_path_factory.mktemp("vm"))
    except NoMachine as missing:
        pytest.skip(str(missing))
