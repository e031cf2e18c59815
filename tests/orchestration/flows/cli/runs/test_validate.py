"""`rlhf validate`: the data report."""

import json
from pathlib import Path


def test_validate_prints_the_data_report_and_trains_nothing(rlhf, recipe_file, command):
    report = {
        "columns": ["rule", "source", "severity", "passed", "found", "expected", "detail"],
        "data": [
            ["duplicates", "comparisons", "warning", False, 3, "no row", "3 of 40 rows"],
            ["min_rows", "comparisons", "error", True, 40, "at least 1", ""],
        ],
    }
    program = Path(command[1])
    text = program.read_text().replace(
        '"docs": "docs"}', '"docs": "docs", "report_table": "report.table.json"}'
    )
    program.write_text(
        text.replace(
            "result = StageResult",
            f"(run.path / 'report.table.json').write_text('''{json.dumps(report)}''')\nresult ="
            " StageResult",
        )
    )
    code, out, err = rlhf("validate", recipe_file)
    assert code == 0, err
    assert (
        "duplicates" in out
        and "warning: duplicates (comparisons): 3 of 40 rows" in out
        and "sft" not in out
    )
    assert json.loads(rlhf("validate", recipe_file, "--json")[1])["report"] == report
