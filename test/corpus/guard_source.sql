-- The source that the cases of guard.txt are run against.
-- To be run by a superuser in the source database (UTF-8). Role `reader` is made when it does not exist; whoever runs
-- this gives it a password. It may WRITE to table w on purpose: where only a privilege stops a bypass, nothing is proved.

\set ON_ERROR_STOP 1
set client_min_messages = warning;

select not exists (select from pg_roles where rolname = 'reader') as make_reader \gset
\if :make_reader
create role reader login;
\endif
alter role reader set timezone = 'UTC';
alter role reader set datestyle = 'ISO, MDY';
alter role reader set intervalstyle = 'postgres';
alter role reader set lc_monetary = 'C';
-- what the agent must not depend on
alter role reader set bytea_output = 'escape';
alter role reader set standard_conforming_strings = off;
alter role reader set client_encoding = 'LATIN1';
grant usage on schema public to reader;
revoke create on schema public from public;

-- what a bypass would hurt
create table w (id int primary key, note text);
insert into w values (1, 'one'), (2, 'two'), (3, null);
grant select, insert, update, delete, truncate on w to reader;

create sequence counter;
select setval('counter', 7);
grant usage, select, update on sequence counter to reader;
create sequence locked_counter;

create table secret (id int, token text);
insert into secret values (1, 'not for reader');

create table half_secret (id int, hidden text);
insert into half_secret values (1, 'not for reader');
grant select (id) on half_secret to reader;

create table owned_by_row (id int, owner name);
insert into owned_by_row values (1, 'reader'), (2, 'somebody else');
alter table owned_by_row enable row level security;
create policy mine on owned_by_row for select using (owner = current_user);

-- what legal queries read
create table big as select g as id from generate_series(1, 5000) g;
create table none (id int, note text);
create table zero_columns ();
insert into zero_columns default values;
insert into zero_columns default values;
create table "Odd Names" ("select" int, "a;b" text, "quo""te" text, " " text, "Größe" int, "--" int, "/*" int);
insert into "Odd Names" values (1, 'semi', 'quote', 'blank', 7, 8, 9);
create table roles (id int, name text);
insert into roles values (1, 'admin'), (2, 'clerk');
create table "update" (id int);
insert into "update" values (11);
create table tree (id int, parent int, label text);
insert into tree values (1, null, 'root'), (2, 1, 'left'), (3, 1, 'right'), (4, 2, 'leaf');
create table sale (region text, product text, amount int);
insert into sale values ('n', 'a', 1), ('n', 'b', 2), ('s', 'a', 3), ('s', 'b', 4);
create table doc (id int, j jsonb);
insert into doc values (1, '{"a": 1, "b": [1, 2], "tags": ["x", "y"]}'), (2, '{"c": {"d": "; drop table w; --"}}');
create table mother (id int);
create table daughter () inherits (mother);
insert into mother values (1);
insert into daughter values (2);
create schema "Other;Schema";
create table "Other;Schema"."T T" (id int);
insert into "Other;Schema"."T T" values (5);
grant usage on schema "Other;Schema" to reader;
create table wide_cell (id int, body text);
insert into wide_cell values (1, repeat('x', 5000));

-- types
create type mood as enum ('sad', 'ok', 'happy');
create domain positive as int check (value > 0);
create type pair as (a int, b text);
create type span as range (subtype = float8);
create table typed (m mood, d positive, p pair, s span, ma mood[], da positive[], pa pair[]);
insert into typed values ('ok', 5, (1, 'x'), '[1,2)', '{sad,happy}', '{1,2}', array[(1, 'a')::pair, (2, null)::pair]);
insert into typed values (null, null, null, null, null, null, null);

-- functions that write, each by another way
create function f_insert(int) returns int language sql volatile as 'insert into w values ($1, ''written'') returning id';
create function f_insert_definer(int) returns int language plpgsql security definer as $$
begin
  insert into w values ($1, 'written');
  return $1;
end $$;
create function f_delete_rows() returns setof w language sql as 'delete from w returning *';
-- claim to be harmless
create function f_immutable(int) returns int language plpgsql immutable as $$
begin
  return f_insert_definer($1);
end $$;
create function f_stable(int) returns int language plpgsql stable as $$
begin
  insert into w values ($1, 'written');
  return $1;
end $$;
create function f_swallow(int) returns text language plpgsql as $$
begin
  insert into w values ($1, 'written');
  return 'written';
exception when others then
  return 'refused ' || sqlstate;
end $$;
create function f_read_write() returns text language plpgsql as $$
begin
  set transaction read write;
  insert into w values (90, 'written');
  return 'written';
end $$;
create function f_read_write_config() returns text language plpgsql as $$
begin
  perform set_config('transaction_read_only', 'off', true);
  insert into w values (91, 'written');
  return 'written';
end $$;
create function f_commit() returns text language plpgsql as $$
begin
  commit;
  insert into w values (92, 'written');
  return 'written';
end $$;
create function f_call() returns text language plpgsql as $$
begin
  call p_commit();
  return 'called';
end $$;
create procedure p_commit() language plpgsql as $$
begin
  commit;
  insert into w values (93, 'written');
  commit;
end $$;
create function f_temp() returns int language plpgsql as $$
begin
  create temp table leftover (id int);
  return 1;
end $$;
create function f_truncate() returns int language plpgsql as $$
begin
  truncate w;
  return 1;
end $$;
create function f_lock() returns int language sql volatile as 'select id from w order by id limit 1 for update';
create function f_step(int, int) returns int language plpgsql as $$
begin
  insert into w values ($2, 'aggregated');
  return $2;
end $$;
create aggregate writing_sum(int) (sfunc = f_step, stype = int, initcond = 0);
create function f_operator(int, int) returns bool language plpgsql as $$
begin
  insert into w values ($1 + $2, 'compared');
  return true;
end $$;
create operator === (leftarg = int, rightarg = int, function = f_operator);
-- refuses to be cancelled for a while
create function f_stubborn(seconds int) returns int language plpgsql as $$
declare
  until timestamptz := clock_timestamp() + make_interval(secs => seconds);
begin
  while clock_timestamp() < until loop
    begin
      perform pg_sleep(extract(epoch from until - clock_timestamp()));
    exception when query_canceled then
      null;
    end;
  end loop;
  return 1;
end $$;
create function f_null() returns text language sql as 'select null::text';
create function f_notice() returns text language plpgsql as $$
begin
  raise notice 'a notice with a % sign; and a semicolon', '%';
  raise warning 'a warning';
  return 'noticed';
end $$;
create function f_raise() returns text language plpgsql as $$
begin
  raise exception 'own failure' using errcode = 'AB123', detail = 'row (1, secret value)', hint = 'none';
end $$;
create function f_raise_as(state text) returns text language plpgsql as $$
begin
  raise exception 'pretended failure' using errcode = state;
end $$;

create view v_w as select id, note from w;
create view v_counter as select nextval('counter') as n;
create view v_lock as select id from w for update;
create view v_insert as select f_insert(95) as n;
create materialized view mv_w as select id from w;

grant select on big, none, zero_columns, "Odd Names", roles, "update", tree, sale, doc, mother, daughter, "Other;Schema"."T T",
  wide_cell, typed, owned_by_row, v_w, v_counter, v_lock, v_insert, mv_w to reader;
