-- commits by itself
-- It takes long, ends where it may, and goes on where it was.
call flows.fill_wide_csq()
