-- commits by itself
-- The owner in every row, third part: it takes long, ends where it may, and goes on where it was.
call flows.fill_series()
