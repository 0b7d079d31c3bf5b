"""Studies: presets of specifications, each with what it compares. The report has their figures (`report/`)."""
