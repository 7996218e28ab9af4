"""The databases of a catalogue: what is found in them stays quick to find."""

import sqlite3

import pytest

from bluesky_autofocus.callbacks._computed_run import ComputedRun
from bluesky_autofocus.catalog import open_catalog

# Of packages below Tiled, at their own use of each other
pytestmark = [
    pytest.mark.filterwarnings("ignore:No path_separator found:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:alembic"),
]


def test_every_table_of_events_has_an_index_when_the_catalogue_is_opened_again(tmp_path):
    catalog = open_catalog(tmp_path)
    for stream in ("focus", "reading", "verdict"):
        run = ComputedRun(catalog.recorder(), catalog.frame_directory, {"plan_name": "computed"})
        run.add(stream, {f"{stream}_value": 1.0})
        run.close()
    catalog.close()
    open_catalog(tmp_path).close()

    with sqlite3.connect(tmp_path / "tables.db") as connection:
        tables = connection.execute("select name from sqlite_master where name like 'table~_%' escape '~'")
        names = [name for (name,) in tables]
        plans = [
            connection.execute(f'explain query plan select * from "{name}" where _dataset_id = 1').fetchall()
            for name in names
        ]
    connection.close()
    assert len(names) == 3
    assert all("USING INDEX" in plan[0][-1] for plan in plans), plans
