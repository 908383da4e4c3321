"""The OpenAPI 3.1 document and the pages that show it."""
