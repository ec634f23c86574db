"""How tasks relate through their neurons, and what single neurons do."""
