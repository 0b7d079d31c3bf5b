"""How trials are shown: pictures, later pages, figures and tables."""
