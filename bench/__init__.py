"""What Haltuun costs beside the bare thing: `make bench`."""
