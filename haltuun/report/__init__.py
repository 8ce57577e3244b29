"""What people read: plan, gates, summary and the report. Pure: facts in, text out."""
