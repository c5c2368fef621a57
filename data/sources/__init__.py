"""Sources of tasks: `catalog.yaml` lists the datasets, one module per family turns hub rows into records.

A family module has one function, `to_record(row, entry) -> dict | None`: `row` is a row of the hub's own columns, the
result holds the fields of the unified record that the family knows (`load_dataset.py` fills in the others), and None
leaves the row out. It raises `DataError` where a row is not what the family expects.
"""
