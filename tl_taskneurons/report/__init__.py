"""Runs shown to people: one HTML file with facts, tables, figures and neurons; terminal tables.

``page.write_report`` makes the file. It needs no network and nothing beside it.
"""
