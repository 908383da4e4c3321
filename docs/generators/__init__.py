"""Pages that are made from the code and the catalogue, and the diagrams of the site."""
