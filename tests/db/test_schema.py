"""Parts of queries that several modules share."""

from sqlalchemy import create_engine, insert, select

from fl_main.db.schema import ORDER, among, rowid, tags

IDS = [f"model {i}" for i in range(5)]


def test_among_finds_the_values_of_a_list_of_any_length() -> None:
    engine = create_engine("sqlite://")
    with engine.begin() as connection:
        tags.create(connection)
        rows = [{"run_id": "r", "tag": f"t{i}", "model_id": model} for i, model in enumerate(IDS)]
        connection.execute(insert(tags), [row | {"created_at": 0.0, "changed_at": 0.0} for row in rows])
        for wanted in ([], ["model 3"], [*IDS[1:3], "another"], [f"model {i}" for i in range(100_000)]):
            query = select(tags.c.model_id).where(among(tags.c.model_id, wanted)).order_by(rowid(tags))
            assert list(connection.execute(query).scalars()) == [model for model in IDS if model in wanted]


def test_among_is_one_statement_whatever_the_length() -> None:
    assert len({str(among(tags.c.model_id, IDS[:number])) for number in range(5)}) == 1


def test_each_table_and_column_says_what_it_is() -> None:
    silent = [str(column) for table in ORDER for column in table.columns if not column.comment]
    assert silent + [table.name for table in ORDER if not table.comment] == []
