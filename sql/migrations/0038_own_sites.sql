-- The sites of a resident are found where they are asked for.
set local role flows_owner;

alter type flows.home drop attribute sites;

reset role;
