"""Fill a catalogue with many runs by SQL: copies of one that was stored through the normal path.

A copy has all rows that Tiled would have written: three nodes (run, stream, table of Events), their closure
by Tiled's own triggers, the data source, and its Events in the table; with a uid, a number, a time and a
sample of its own.
"""

import sqlite3
from typing import Any

__all__ = ["fill_postgresql", "fill_sqlite"]

NODES = 3
"""Of a run: itself, its stream, the table."""


def _template(execute: Any) -> dict[str, Any]:
    """Return the ids of what is copied: the newest run."""
    (run,) = execute("select max(id) from nodes where parent = 0")
    (stream,) = execute(f"select min(id) from nodes where parent = {run}")
    (internal,) = execute(f"select min(id) from nodes where parent = {stream}")
    (source,) = execute(f"select id from data_sources where node_id = {internal}")
    (node,) = execute("select max(id) from nodes")
    (last,) = execute("select max(id) from data_sources")
    (there,) = execute("select count(*) from nodes where parent = 0")
    return {
        "run": run, "stream": stream, "internal": internal, "source": source, "node": node, "last": last,
        "there": there,
    }  # fmt: skip


def fill_sqlite(folder: Any, runs: int) -> None:
    """Fill a catalogue in a folder, which nobody serves meanwhile, up to so many runs."""
    connection = sqlite3.connect(folder / "catalog.db")
    connection.execute("attach ? as tables", [str(folder / "tables.db")])

    def execute(statement: str) -> Any:
        return connection.execute(statement).fetchone()

    of = _template(execute)
    missing = runs - of["there"]
    table, dataset = execute(
        "select json_extract(parameters, '$.table_name'), json_extract(parameters, '$.dataset_id') "
        f"from data_sources where id = {of['source']}"
    )
    (used,) = execute("select value from tables._dataset_id_counter")
    numbers = (
        f"with recursive numbers(i) as (select 1 union all select i + 1 from numbers where i < {missing})"
    )
    uid = "printf('%08x-0000-4000-8000-000000000000', (n.i + {there}) * 2654435761 % 4294967296)"
    uid = uid.format(**of)
    node = f"{of['node']} + {NODES} * (n.i - 1)"
    columns = [row[1] for row in connection.execute(f"pragma tables.table_info('{table}')")][1:]
    quoted = ", ".join(f'"{name}"' for name in columns)
    for statement in (
        f"""insert into nodes (id, parent, key, structure_family, metadata, specs) {numbers}
        select {node} + 1, 0, {uid}, o.structure_family, json_set(o.metadata, '$.start.uid', {uid},
            '$.start.scan_id', n.i + {of["there"]}, '$.start.sample', 'sample ' || (n.i + {of["there"]}),
            '$.start.time', json_extract(o.metadata, '$.start.time') + n.i + {of["there"]},
            '$.stop.run_start', {uid}), o.specs
        from numbers n, nodes o where o.id = {of["run"]}""",
        f"""insert into nodes (id, parent, key, structure_family, metadata, specs) {numbers}
        select {node} + 2, {node} + 1, o.key, o.structure_family, o.metadata, o.specs
        from numbers n, nodes o where o.id = {of["stream"]}""",
        f"""insert into nodes (id, parent, key, structure_family, metadata, specs) {numbers}
        select {node} + 3, {node} + 2, o.key, o.structure_family, o.metadata, o.specs
        from numbers n, nodes o where o.id = {of["internal"]}""",
        f"""insert into data_sources
            (id, node_id, structure_id, mimetype, parameters, properties, management, structure_family)
        {numbers}
        select {of["last"]} + n.i, {node} + 3, o.structure_id, o.mimetype,
            json_set(o.parameters, '$.dataset_id', {used} + n.i), o.properties, o.management,
            o.structure_family
        from numbers n, data_sources o where o.id = {of["source"]}""",
        f"""insert into data_source_asset_association (data_source_id, asset_id, parameter, num) {numbers}
        select {of["last"]} + n.i, o.asset_id, o.parameter, o.num
        from numbers n, data_source_asset_association o where o.data_source_id = {of["source"]}""",
        f"""insert into tables."{table}" (_dataset_id, {quoted}) {numbers}
        select {used} + n.i, {quoted} from numbers n, tables."{table}" o where o._dataset_id = {dataset}""",
        f"update tables._dataset_id_counter set value = {used + missing}",
    ):
        connection.execute(statement)
    connection.commit()
    connection.execute("analyze")
    connection.close()


async def fill_postgresql(database: str, runs: int) -> None:
    """Fill a catalogue in a database up to so many runs."""
    import asyncpg

    connection = await asyncpg.connect(database)
    found: dict[str, Any] = {}
    for name, statement in (
        ("run", "select max(id) from nodes where parent = 0"),
        ("stream", "select min(id) from nodes where parent = {run}"),
        ("internal", "select min(id) from nodes where parent = {stream}"),
        ("source", "select id from data_sources where node_id = {internal}"),
        ("node", "select max(id) from nodes"),
        ("last", "select max(id) from data_sources"),
        ("there", "select count(*) from nodes where parent = 0"),
        ("table", "select parameters->>'table_name' from data_sources where id = {source}"),
        ("dataset", "select (parameters->>'dataset_id')::int from data_sources where id = {source}"),
        ("used", "select last_value from _dataset_id_counter"),
    ):
        found[name] = await connection.fetchval(statement.format(**found))
    of = found
    missing = runs - of["there"]
    numbers = f"generate_series(1, {missing}) n(i)"
    uid = (
        f"lpad(to_hex((n.i + {of['there']})::bigint * 2654435761 % 4294967296), 8, '0') "
        "|| '-0000-4000-8000-000000000000'"
    )
    node = f"{of['node']} + {NODES} * (n.i - 1)"
    rows = await connection.fetch(
        "select column_name from information_schema.columns where table_name = $1 order by ordinal_position",
        of["table"],
    )
    quoted = ", ".join(f'"{row[0]}"' for row in rows[1:])
    copied = "key, structure_family, metadata, specs"
    for statement in (
        f"""insert into nodes (id, parent, {copied})
        select {node} + 1, 0, {uid}, o.structure_family, o.metadata || jsonb_build_object(
            'start', o.metadata->'start' || jsonb_build_object('uid', {uid}, 'scan_id', n.i + {of["there"]},
                'sample', 'sample ' || (n.i + {of["there"]}),
                'time', (o.metadata->'start'->>'time')::float8 + n.i + {of["there"]}),
            'stop', o.metadata->'stop' || jsonb_build_object('run_start', {uid})), o.specs
        from {numbers}, nodes o where o.id = {of["run"]}""",
        f"""insert into nodes (id, parent, {copied})
        select {node} + 2, {node} + 1, {copied} from {numbers}, nodes o where o.id = {of["stream"]}""",
        f"""insert into nodes (id, parent, {copied})
        select {node} + 3, {node} + 2, {copied} from {numbers}, nodes o where o.id = {of["internal"]}""",
        f"""insert into data_sources
            (id, node_id, structure_id, mimetype, parameters, properties, management, structure_family)
        select {of["last"]} + n.i, {node} + 3, o.structure_id, o.mimetype,
            o.parameters || jsonb_build_object('dataset_id', {of["used"]} + n.i), o.properties, o.management,
            o.structure_family
        from {numbers}, data_sources o where o.id = {of["source"]}""",
        f"""insert into data_source_asset_association (data_source_id, asset_id, parameter, num)
        select {of["last"]} + n.i, o.asset_id, o.parameter, o.num
        from {numbers}, data_source_asset_association o where o.data_source_id = {of["source"]}""",
        f"""insert into "{of["table"]}" (_dataset_id, {quoted})
        select {of["used"]} + n.i, {quoted} from {numbers}, "{of["table"]}" o
        where o._dataset_id = {of["dataset"]}""",
        "select setval(pg_get_serial_sequence('nodes', 'id'), (select max(id) from nodes))",
        "select setval(pg_get_serial_sequence('data_sources', 'id'), (select max(id) from data_sources))",
        f"select setval('_dataset_id_counter', {of['used'] + missing})",
        "analyze",
    ):
        await connection.execute(statement)
    await connection.close()
