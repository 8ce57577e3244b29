"""What both stand-ins share: paths, scaled time, name lookup, HTTP in Go's wording, IMDS, AWS calls."""
