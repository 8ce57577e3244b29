"""Text that a host said, without the passwords and key ids in it. Pure."""

from __future__ import annotations

import re

# As the redact of stages/repair/host.sh does on the host.
_PROXY = re.compile(r"([Pp][Rr][Oo][Xx][Yy][=:]\s*)([A-Za-z0-9]*://)?.*@")
_URL = re.compile(r"://.*@")
_PASSWORD = re.compile(r"(?<![^=/:])[^=/:]*:[^/].*@")
_KEY_ID = re.compile(r"(A[KS]IA)[0-9A-Z]{12,}")
_WORD = re.compile(r'(?<![^\s"])[^\s"]*@')


def redact(text: str) -> str:
    """What is looked at ends in an @, so that no line, however long, is searched twice."""
    return "\n".join(map(_redact_line, text.split("\n")))


def _redact_line(line: str) -> str:
    head, at, tail = line.rpartition("@")
    if at:
        line = _WORD.sub(_redact_word, _PROXY.sub(r"\1\2***@", head + at) + tail)
    return _KEY_ID.sub(r"\1***", line)


def _redact_word(word: re.Match[str]) -> str:
    return _PASSWORD.sub("***@", _URL.sub("://***@", word.group()))
