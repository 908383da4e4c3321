"""Generators of pages from the code and the catalogue, and of the site's diagrams."""
