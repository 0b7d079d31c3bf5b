"""How trials are compared and shown: statistics, pictures, and the report with its figures and tables."""
