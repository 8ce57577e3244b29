"""Prefect flows: sequencing only. What they do is in haltuun/, what they call in tasks/."""
