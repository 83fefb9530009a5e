"""How a result is shown: text, JSON, Markdown."""
