"""Reports: tables, charts, pictures and one page."""
