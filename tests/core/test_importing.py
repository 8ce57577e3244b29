from __future__ import annotations

import gc

import pytest

from haltuun.importing import uncollected


@pytest.mark.parametrize("before", [True, False])
def test_collecting_goes_on_as_before_also_after_an_import_that_fails(before: bool) -> None:
    was = gc.isenabled()
    try:
        (gc.enable if before else gc.disable)()
        with pytest.raises(ModuleNotFoundError), uncollected(), uncollected():
            assert not gc.isenabled()
            import haltuun.nothing_of_this_name  # noqa: F401
        assert gc.isenabled() is before
    finally:
        (gc.enable if was else gc.disable)()
