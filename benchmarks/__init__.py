"""Studies, statistics, reports, claims and speed. Knows the core and the registry."""
