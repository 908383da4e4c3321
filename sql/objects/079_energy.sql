set local role flows_owner;

-- Deployments have one figure of energy, kwh: what a register measures, be it consumed or generated. Here it is
-- the sum of import and export, of which a register of theirs has one. Written alone, it is export where the
-- register measures generation (by its nature, or the circuit it is mapped to), and import elsewhere.
create or replace function flows.keep_kwh() returns trigger
language plpgsql set search_path = ''
as $$
declare
    together constant numeric := coalesce(new.import_kwh + new.export_kwh, new.import_kwh, new.export_kwh);
    alone boolean;
begin
    if tg_op = 'INSERT' then
        alone := new.kwh is not null and together is null;
        if new.kwh is not null and not alone then
            raise check_violation using message = 'kwh is the sum of import_kwh and export_kwh: give it alone, or not';
        end if;
    else
        alone := (new.import_kwh, new.export_kwh) is not distinct from (old.import_kwh, old.export_kwh)
            and new.kwh is distinct from old.kwh;
        if new.kwh is distinct from old.kwh and not alone then
            raise check_violation using message = 'kwh is the sum of import_kwh and export_kwh: give it alone, or not';
        end if;
    end if;
    if not alone then
        new.kwh := together;
    elsif exists (
        select from flows.meter_registers as r where r.register_id = new.register_id and r.nature = 'solar'
    ) or exists (
        select from flows.circuit_register as m
        inner join flows.circuits as c on m.circuit = c.id
        where m.register = new.register_id and c.type = 'solar'
            and m.start_time <= new."timestamp" and (m.end_time > new."timestamp" or m.end_time is null)
    ) then
        new.import_kwh := null;
        new.export_kwh := new.kwh;
    else
        new.import_kwh := new.kwh;
        new.export_kwh := null;
    end if;
    return new;
end $$;
comment on function flows.keep_kwh() is 'Keeps kwh the sum of both directions, or both as a given kwh says.';
-- Whoever writes all three, as loaders do, passes by.
create trigger kwh_is_the_sum before insert or update on flows.register_interval_hh
for each row when (
    new.kwh is distinct from coalesce(new.import_kwh + new.export_kwh, new.import_kwh, new.export_kwh)
)
execute function flows.keep_kwh();

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
