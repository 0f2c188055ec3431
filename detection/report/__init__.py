"""How a result is told: tables, charts, pictures and one page."""
