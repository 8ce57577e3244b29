"""Stand-in for amazon-ssm-agent: chooses and keeps its identity as release 3.3.1142.0 does."""
