"""Give a process the name and command line of the program that it stands for."""

from __future__ import annotations


def set_process_title(comm: str, argv0: str) -> None:
    """Set /proc/self/comm and overwrite the argument area that /proc/self/cmdline shows."""
    with open("/proc/self/comm", "w") as stream:
        stream.write(comm[:15])
    with open("/proc/self/stat") as stream:
        fields = stream.read().rpartition(")")[2].split()
    # proc(5): fields 48 and 49 are arg_start and arg_end; after the ")" field 3 comes first.
    arg_start, arg_end = int(fields[45]), int(fields[46])
    room = arg_end - arg_start
    if room <= len(argv0) + 1:
        return
    with open("/proc/self/mem", "r+b", buffering=0) as memory:
        memory.seek(arg_start)
        # A last byte that is not NUL tells the kernel to show the first string only (fs/proc/base.c
        # get_mm_proctitle); with NUL there, the padding would show as empty arguments.
        memory.write(argv0.encode().ljust(room - 1, b"\0") + b".")
