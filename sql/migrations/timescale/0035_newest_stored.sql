-- Here the newest circuits are named (083_newest_circuits.sql), and found by the index that has them.
select;
