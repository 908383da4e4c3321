set local role flows_owner;

-- Deployments have one figure of energy, kwh: what a register measures, be it consumed or generated. Here it is
-- the sum of import and export, of which a register of theirs has one. Written alone, it is export where the
-- register measures generation (by its nature, or the circuit it is mapped to), and import elsewhere.
create or replace function flows.measures_generation(register uuid, moment timestamptz) returns boolean
language sql stable set search_path = ''
begin atomic
    select exists (
        select from flows.meter_registers as r
        where r.register_id = measures_generation.register and r.nature = 'solar'
    ) or exists (
        select from flows.circuit_register as m
        inner join flows.circuits as c on m.circuit = c.id
        where m.register = measures_generation.register and c.type = 'solar'
            and m.start_time <= measures_generation.moment
            and (m.end_time > measures_generation.moment or m.end_time is null)
    );
end;
comment on function flows.measures_generation(uuid, timestamptz)
is 'True if a register measures generation at a time: by its nature, or the circuit it is mapped to.';

-- Rows come by the hundred thousand, and a function called for each costs as much as its index: this is the only
-- one, and it looks for an owner (as 055_owner.sql does) once for all rows of a register that follow one another in
-- a statement. Bounds are looked at before, so that what they refuse is what was written; the derived half-hour is
-- replaced after, when the register is known to be the caller's.
create or replace function flows.complete_half_hour() returns trigger
language plpgsql
as $$
declare
    together numeric;
    owner uuid;
begin
    if new.esco is not null then
        null;
    elsif new.register_id::text = current_setting('flows.owned_register', true) then
        new.esco := current_setting('flows.owner')::uuid;
    else
        select r.esco into owner from flows.meter_registers as r where r.register_id = new.register_id;
        if not found and not flows.sees_every_esco() then
            raise with_check_option_violation using
                message = 'new row violates check option for view "register_interval_hh"';
        end if;
        if owner is not null then
            perform pg_catalog.set_config('flows.owned_register', new.register_id::text, true);
            perform pg_catalog.set_config('flows.owner', owner::text, true);
        end if;
        new.esco := owner;
    end if;
    together := coalesce(new.import_kwh + new.export_kwh, new.import_kwh, new.export_kwh);
    if new.kwh is null then
        new.kwh := together;
    elsif new.kwh <> together then
        raise check_violation using message = 'kwh is the sum of import_kwh and export_kwh: give it alone, or not';
    elsif together is not null then
        null;
    elsif flows.measures_generation(new.register_id, new."timestamp") then
        new.export_kwh := new.kwh;
    else
        new.import_kwh := new.kwh;
    end if;
    return new;
end $$;
comment on function flows.complete_half_hour()
is 'Gives a new half-hour the owner of its register, and kwh, or both directions as a given kwh says.';
-- Loaders that give both pass by.
create trigger half_hour_is_complete before insert on flows.register_interval_hh
for each row when (
    new.esco is null
    or new.kwh is distinct from coalesce(new.import_kwh + new.export_kwh, new.import_kwh, new.export_kwh)
)
execute function flows.complete_half_hour();

create or replace function flows.forget_owner() returns trigger
language plpgsql
as $$
begin
    perform pg_catalog.set_config('flows.owned_register', '', true);
    return null;
end $$;
comment on function flows.forget_owner() is 'A statement looks for the owners of its half-hours itself.';
create trigger a_statement_looks_for_owners before insert on flows.register_interval_hh
for each statement execute function flows.forget_owner();

create or replace function flows.keep_kwh() returns trigger
language plpgsql set search_path = ''
as $$
declare
    alone constant boolean := (new.import_kwh, new.export_kwh) is not distinct from (old.import_kwh, old.export_kwh)
        and new.kwh is distinct from old.kwh;
begin
    if new.kwh is distinct from old.kwh and not alone then
        raise check_violation using message = 'kwh is the sum of import_kwh and export_kwh: give it alone, or not';
    end if;
    if not alone then
        new.kwh := coalesce(new.import_kwh + new.export_kwh, new.import_kwh, new.export_kwh);
    elsif flows.measures_generation(new.register_id, new."timestamp") then
        new.import_kwh := null;
        new.export_kwh := new.kwh;
    else
        new.import_kwh := new.kwh;
        new.export_kwh := null;
    end if;
    return new;
end $$;
comment on function flows.keep_kwh() is 'Keeps kwh the sum of both directions, or both as a given kwh says.';
create trigger kwh_is_the_sum before update on flows.register_interval_hh
for each row when (
    new.kwh is distinct from coalesce(new.import_kwh + new.export_kwh, new.import_kwh, new.export_kwh)
)
execute function flows.keep_kwh();
grant execute on function flows.measures_generation(uuid, timestamptz) to flows, tsdbadmin;

do $$
declare
    series text;
begin
    for series in select s.name from flows.series() as s where s.key = 'circuit_id' loop
        execute format(
            'create view flows.%I as select s.*, '
            'coalesce(s.total_import_kwh + s.total_export_kwh, s.total_import_kwh, s.total_export_kwh) as kwh '
            'from flows.%I as s', series, flows.stored_name(series)
        );
    end loop;
end $$;

reset role;
