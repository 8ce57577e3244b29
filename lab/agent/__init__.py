"""Stand-ins for the agents that AWS installs on a host.

`netkit`, `ssm` and `cw` are copied into Debian packages and run inside a lab host on the standard
library alone, so they import each other relatively and nothing else. `build` runs outside.
"""
