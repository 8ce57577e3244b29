"""Hosts that are real enough to be repaired: namespaces over a small Debian, with their own PID 1."""
