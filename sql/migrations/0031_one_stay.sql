-- A resident's one stay has since and until; of several these are empty.
set local role flows_owner;

alter type flows.home drop attribute is_one_stay;

reset role;
