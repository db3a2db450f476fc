"""The committed matrix of whole models is complete, and the page quotes its versions."""

import json

import whole_models
import whole_models_reader

from tools.use_it_in import PAGE, ROOT


def test_whole_models_give_the_students_image_in_every_environment():
    rows = json.loads(whole_models.RESULTS.read_text())["rows"]
    assert all(row["same"] == row["should_be"] for row in rows)
    read = {(row["versions"]["transformers"], row["case"], row["file"]) for row in rows}
    versions = {version for version, *_ in read}
    assert {"4.44.2", "4.57.6", "5.5.4"} < versions
    assert len(versions) == len(whole_models.ENVIRONMENTS)
    cases = {case for _, case, _ in read}
    assert len(read) == len(versions) * len(cases) * len(whole_models_reader.READERS)
    assert len(cases) == 2 * len(whole_models.LIMITS) + 1
    page = (ROOT / PAGE).read_text(encoding="utf-8")
    for row in rows:
        assert all(version in page for version in row["versions"].values())


def test_names_without_their_prefix_are_seen_to_be_wrong():
    rows = json.loads(whole_models.RESULTS.read_text())["rows"]
    seen = [row for row in rows if not row["should_be"]]
    assert len(seen) == len(whole_models.ENVIRONMENTS) - 1, "today's reads both"
    assert all(row["largest_difference"] > 100 for row in seen)
