"""What it takes to run Haltuun for real."""
