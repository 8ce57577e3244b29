"""The IAM policies of Haltuun's role, made from actions.yaml."""
