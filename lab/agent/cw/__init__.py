"""Stand-in for amazon-cloudwatch-agent: tails log files and ships their lines."""
