"""Tasks: values, engines, refusals, reports."""
