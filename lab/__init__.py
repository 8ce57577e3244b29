"""An inherited account to practise on: an emulated AWS account and real hosts, on one machine.

Nothing in `haltuun` imports this package, except its command line, lazily.
"""
