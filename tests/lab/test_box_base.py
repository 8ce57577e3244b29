from __future__ import annotations

import pytest

from lab.box import base
from lab.errors import LabError


def test_missing_tools_are_named_by_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(base.TOOLS, "no-such-program", "no-such-package")
    assert "no-such-package" in base.missing_tools()


def test_a_machine_without_apt_is_told_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    monkeypatch.setitem(base.TOOLS, "no-such-program", "no-such-package")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LabError, match="no-such-package"):
        base.install_tools(print)


def test_another_recipe_is_another_image(monkeypatch: pytest.MonkeyPatch) -> None:
    before = base.base_key("bookworm")
    monkeypatch.setattr(base, "RECIPE", "another")
    assert base.base_key("bookworm") != before


@pytest.mark.lab
def test_the_image_has_no_python_on_path_and_one_off_it() -> None:
    image = base.ensure_base(print)
    assert not list(image.glob("usr/bin/python*"))
    assert (image / "opt/lab/py/usr/bin/python3").exists()
    assert base.ensure_base(print) == image
