"""Show a report: tables and pictures for a terminal, as Markdown, as CSV and as one HTML page."""
