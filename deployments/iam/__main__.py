"""`python -m deployments.iam`: write the policies and the role's template anew from actions.yaml."""

from __future__ import annotations

from deployments.iam.policies import files

for path, text in files().items():
    path.write_text(text, encoding="utf-8")
