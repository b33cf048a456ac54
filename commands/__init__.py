"""The command line, one verb a file. Thin: parses, calls, prints. Nothing heavy is imported before a verb runs."""
