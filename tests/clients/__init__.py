"""The packages in clients/, generated from the running stack's document and used against it."""
