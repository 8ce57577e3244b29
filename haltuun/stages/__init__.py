"""The six stages. Each is data plus small functions: probe, parse, judge, plan, apply, prove, CHECKS."""
